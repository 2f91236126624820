"""The network on a CPU: the exported file in ONNX Runtime beside the eager PyTorch model, in the same run.

    python -m benchmarks.network_cpu [--threads 2] [--rounds 7] [--out benchmarks/results/network_cpu.json]
    python -m benchmarks.network_cpu --int8 [--out benchmarks/results/int8_cpu.json]

mmdetection's R-50 with seeded weights finds 100 instances in a photograph of 1333x800, which the network sees as
800x1344. Two things are timed: the network alone on ready inputs, and an image's whole way from decoded pixels to
COCO RLEs; the eager model's with the references' dense masks and one encoding a mask, ours with compact ones. With
--int8 the INT8 file (`condinst-export --int8`) and the float32 file are timed in ONNX Runtime.

Two pools of threads that spin slow each other down a lot, so each side lives in a separate process, on the same
cores, and gets its turn through a pipe: the other one is blocked meanwhile, and a pause lets its threads fall asleep.
Who is first changes from round to round. A round gives one ratio, and the published values are medians of them.

The targets are about the eager model as it comes. What channels last and inference mode are worth to it is measured
as well, and what it costs ONNX Runtime when its threads sleep between two operators instead of spinning. Before
anything is timed all sides in float32 must find the same 100 instances. How many of them the INT8 file finds is
recorded, and says little: weights made from a seed are no trained model's.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import numpy as np

from benchmarks.network_side import HEIGHT, INT8, WIDTH, Side
from benchmarks.targets import Target, parser_of, write_results
from benchmarks.timing import ratio
from condinst_deploy.benchmarking.benchmark_settings import cores_for
from condinst_deploy.benchmarking.process import ModelProcess
from condinst_deploy.errors import ConfigError
from condinst_deploy.evaluation.agreement import Tolerance, agreement_of, instances_from_coco, matched_pairs
from condinst_deploy.runtime.cpu_features import products_may_overflow
from tests.support.exports import save_int8, save_r50
from tests.support.models import IMAGES

SIDE = (sys.executable, "-m", "benchmarks.network_side")
"""Command of a side's process."""

NETWORK = (800, 1344)
INSTANCES = 100

SAME = Tolerance(boxes=0.02, scores=2e-5, mask_iou=0.99)
"""Random weights make some small masks, of which a pixel is a share."""

WARM_UP = 2
PAUSE = 0.5
"""Seconds before each turn."""

NETWORK_TARGET, IMAGE_TARGET = 1.05, 0.70
INT8_NETWORK_TARGET, INT8_IMAGE_TARGET = 0.40, 0.50

Work = Literal["network", "image"]
SIDES: tuple[Side, ...] = tuple(side for side in get_args(Side) if side != INT8)
WORK: dict[Work, tuple[Side, ...]] = {"network": SIDES, "image": ("eager", "onnxruntime")}
INT8_WORK: dict[Work, tuple[Side, ...]] = {"network": ("onnxruntime", INT8), "image": ("onnxruntime", INT8)}

Seconds = dict[Work, dict[Side, list[float]]]


@contextmanager
def processes(folder: Path, cores: Sequence[int], sides: Sequence[Side]) -> Iterator[dict[Side, ModelProcess]]:
    """One for each side, all on the same cores, loaded and blocked."""
    with ExitStack() as stack:
        started = {side: stack.enter_context(ModelProcess(Path(side), cores, SIDE)) for side in sides}
        for side, process in started.items():
            padded = tuple(process.ask("load", side=side, folder=str(folder))["padded"])
            if padded != NETWORK:
                raise RuntimeError(f"the network sees {padded}; expected {NETWORK}")
        yield started


def asked(process: ModelProcess, verb: str) -> dict[str, Any]:
    time.sleep(PAUSE)
    return process.ask(verb)


def check(started: Mapping[Side, ModelProcess]) -> dict[str, Any]:
    """Every side in float32 finds the same `INSTANCES`."""
    found = {side: instances_from_coco(asked(process, "detections")["entries"]) for side, process in started.items()}
    int8 = found.pop(INT8, None)
    eager = found.pop("eager" if int8 is None else "onnxruntime")
    if int8 is not None:
        return {"instances": len(eager.scores), "int8_matched": len(matched_pairs(eager, int8))}
    for side, instances in found.items():
        result = agreement_of(eager, instances, matched_pairs(eager, instances))
        if len(instances.scores) != INSTANCES or not result.within(SAME):
            raise RuntimeError(
                f"{side} finds {len(instances.scores)} instances, {result}; expected the eager {INSTANCES}"
            )
    areas = eager.areas / (WIDTH * HEIGHT)
    return {"instances": INSTANCES, "median_mask_area": round(float(np.median(areas)), 4)}


def measured(started: Mapping[Side, ModelProcess], rounds: int, plan: Mapping[Work, Sequence[Side]]) -> Seconds:
    order = random.Random(0)
    seconds: Seconds = {work: {side: [] for side in sides} for work, sides in plan.items()}
    for i in range(-WARM_UP, rounds):
        for work, sides in plan.items():
            times = {side: asked(started[side], work)["seconds"] for side in order.sample(sides, len(sides))}
            print(f"round {i + 1} of {rounds}, {work}:", *(f"{s} {t:.2f} s;" for s, t in times.items()), flush=True)
            if i >= 0:
                for side, value in times.items():
                    seconds[work][side].append(value)
    return seconds


def share(seconds: Mapping[Side, list[float]], reference: Side, side: Side = "onnxruntime") -> float:
    """Median of the rounds' ratios, a side's time over the reference's."""
    return ratio(seconds[side], seconds[reference])


def targets_of(seconds: Seconds) -> list[Target]:
    network, image = seconds["network"], seconds["image"]
    eager = "times eager PyTorch"
    return [
        Target.at_most("network, 800x1344, 100 instances", share(network, "eager"), NETWORK_TARGET, eager),
        Target.without("network beside eager with channels last", share(network, "eager, channels last"), eager),
        Target.without("network beside threads that sleep", share(network, "onnxruntime, sleeping"), "times its time"),
        Target.at_most("image to RLE, 1333x800", share(image, "eager"), IMAGE_TARGET, f"{eager} and dense masks"),
    ]


def int8_targets_of(seconds: Seconds) -> list[Target]:
    """The INT8 file beside the float32 file; without VNNI nothing was asked."""
    limits: dict[Work, tuple[str, float]] = {
        "network": ("network, 800x1344", INT8_NETWORK_TARGET),
        "image": ("image to RLE, 1333x800", INT8_IMAGE_TARGET),
    }
    found = {name: (share(seconds[work], "onnxruntime", INT8), limit) for work, (name, limit) in limits.items()}
    unit = "times the float32 file"
    if products_may_overflow():
        return [Target.without(f"INT8 file without VNNI, {name}", value, unit) for name, (value, _) in found.items()]
    return [Target.at_most(f"INT8 file, {name}", value, limit, unit) for name, (value, limit) in found.items()]


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, default=2, help="threads of either side, a core each (2)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--int8", action="store_true", help="the INT8 file beside the float32 file, and nothing else")
    arguments = parser.parse_args()
    try:
        cores = cores_for(arguments.threads)
    except ConfigError as e:
        parser.error(str(e))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_r50(folder / "r50.pth", folder / "r50.onnx")
        if arguments.int8:
            save_int8(folder / "r50.onnx", folder / "r50.int8.onnx", IMAGES)
        plan = INT8_WORK if arguments.int8 else WORK
        with processes(folder, cores, plan["network"]) as started:
            metrics = check(started)
            seconds = measured(started, arguments.rounds, plan)
    targets = int8_targets_of(seconds) if arguments.int8 else targets_of(seconds)
    medians = {
        work: {side: round(median(times), 4) for side, times in sides.items()} for work, sides in seconds.items()
    }
    print(json.dumps(medians, indent=1))
    metrics |= {"weights": "seed 0", "threads": arguments.threads, "rounds": arguments.rounds}
    write_results(arguments.out, targets, metrics | {"median_seconds": medians, "seconds": seconds})


if __name__ == "__main__":
    main()
