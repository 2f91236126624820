"""Latency of every stage of a stream as your own metric: python examples/observe_stages.py model.onnx images/

An observer is a function that returns a context manager for a stage; your metrics or tracing library has one.
"""

import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

from condinst_deploy import Predictor

parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
parser.add_argument("model", help="checkpoint, .onnx or .engine")
parser.add_argument("images", help="file, folder or pattern")
arguments = parser.parse_args()

counts: Counter[tuple[str, float]] = Counter()  # a histogram, as Prometheus has it: (stage, upper bound in seconds)
lock = Lock()  # stages run in several threads


@contextmanager
def observer(stage: str, images: Sequence[str]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    bound = next(bound for bound in (0.001, 0.01, 0.1, 1.0, float("inf")) if seconds <= bound)
    with lock:
        counts[stage, bound] += len(images)


with Predictor(arguments.model, observer=observer) as predictor:
    for prediction in predictor.stream(arguments.images):
        print(prediction.name, prediction.error or prediction.detections)
for (stage, bound), count in sorted(counts.items()):
    print(f"{stage}: {count} images in at most {bound} s")
