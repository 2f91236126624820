"""Detect instances in one image: python examples/predict.py model.onnx street.jpg overlay.png"""

from argparse import ArgumentParser, RawDescriptionHelpFormatter

from condinst_deploy import Predictor

parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
parser.add_argument("model", help="checkpoint, .onnx or .engine")
parser.add_argument("image", help="image file")
parser.add_argument("overlay", help="file to write")
arguments = parser.parse_args()

(found,) = Predictor(arguments.model)(arguments.image)
for box, name, score, area in zip(found.boxes, found.names, found.scores, found.masks.areas, strict=True):
    print(f"{name} {score:.2f} at {box.round(1).tolist()}, {area} pixels")
found.draw(arguments.image).save(arguments.overlay)
