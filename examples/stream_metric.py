"""Your own metric over a stream of images, in bounded memory: the share of the pixels that each class covers.

python examples/stream_metric.py model.onnx images/
"""

import sys
from collections import Counter
from contextlib import closing

from condinst_deploy import Predictor

covered: Counter[str] = Counter()
pixels = 0
with Predictor(sys.argv[1], score_threshold=0.5) as predictor, closing(predictor.stream(sys.argv[2])) as predictions:
    for prediction in predictions:
        if prediction.detections is None:  # this image cannot be read; the stream goes on
            print(prediction.error, file=sys.stderr)
            continue
        pixels += prediction.detections.masks.size[0] * prediction.detections.masks.size[1]
        for name, area in zip(prediction.detections.names, prediction.detections.masks.areas, strict=True):
            covered[name] += int(area)
for name, area in covered.most_common():
    print(f"{name}: {area / pixels:.1%}")
