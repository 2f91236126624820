"""Your own metric over a stream of images, in bounded memory: the share of the pixels that each class covers.

python examples/stream_metric.py model.onnx images/
"""

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from contextlib import closing

from condinst_deploy import Predictor

parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
parser.add_argument("model", help="checkpoint, .onnx or .engine")
parser.add_argument("images", help="file, folder or pattern")
arguments = parser.parse_args()

covered: Counter[str] = Counter()
pixels = 0
with (
    Predictor(arguments.model, score_threshold=0.5) as predictor,
    closing(predictor.stream(arguments.images)) as predictions,
):
    for prediction in predictions:
        if prediction.detections is None:  # this image cannot be read; the stream goes on
            print(prediction.error, file=sys.stderr)
            continue
        pixels += prediction.detections.masks.size[0] * prediction.detections.masks.size[1]
        for name, area in zip(prediction.detections.names, prediction.detections.masks.areas, strict=True):
            covered[name] += int(area)
for name, area in covered.most_common():
    print(f"{name}: {area / pixels:.1%}")
