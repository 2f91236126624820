"""Detect instances in one image: python examples/predict.py model.onnx street.jpg overlay.png"""

import sys

from condinst_deploy import Predictor

model, path, overlay = sys.argv[1:]
(found,) = Predictor(model)(path)
for box, name, score, area in zip(found.boxes, found.names, found.scores, found.masks.areas, strict=True):
    print(f"{name} {score:.2f} at {box.round(1).tolist()}, {area} pixels")
found.draw(path).save(overlay)
