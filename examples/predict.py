"""Detect instances in one image: python examples/predict.py model.onnx street.jpg overlay.png"""

import sys

from PIL import Image

from condinst_deploy import Predictor

if len(sys.argv) != 4:
    sys.exit(__doc__)
model, path, overlay = sys.argv[1:]
with Predictor(model) as predictor:
    (detections,) = predictor(path)
for box, name, score, area in zip(
    detections.boxes, detections.names, detections.scores, detections.masks.areas, strict=True
):
    print(f"{name} {score:.2f} at {box.round(1).tolist()}, {area} pixels")
with Image.open(path) as image:
    detections.draw(image).save(overlay)
