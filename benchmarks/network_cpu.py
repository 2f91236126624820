"""The network on a CPU: the exported file in ONNX Runtime beside the eager PyTorch model, in the same run.

    python -m benchmarks.network_cpu [--threads 2] [--rounds 7] [--out benchmarks/results/network_cpu.json]
    python -m benchmarks.network_cpu --int8 [--out benchmarks/results/int8_cpu.json]

mmdetection's R-50 with seeded weights finds 100 instances in a photograph of 1333x800, which the network sees as
800x1344. Two things are timed: the network alone on ready inputs, and an image's whole way from decoded pixels to
COCO RLEs; the eager model's with the references' dense masks and one encoding a mask, ours with compact ones. With
--int8 the INT8 file (`condinst-export --int8`) and the float32 file are timed in ONNX Runtime.

Two pools of threads that spin slow each other down a lot, so each side lives in a process of its own, on the same
cores, and gets its turn through a pipe: the other one is blocked meanwhile, and a pause lets its threads fall asleep.
Who is first changes from round to round. A round gives one ratio, and the figures are medians of them.

The targets are about the eager model as it comes. What channels last and inference mode are worth to it is measured
as well, and what it costs ONNX Runtime when its threads sleep between two operators instead of spinning. Before
anything is timed all sides in float32 must find the same 100 instances. How many of them the INT8 file finds is
recorded, and says little: weights made from a seed are no trained model's.
"""

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image

from benchmarks.targets import Target, write_results
from condinst_deploy.contract import ImageGeometry, NetworkOutputs
from condinst_deploy.evaluation.agreement import Tolerance, agreement
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.cores import CpuThreads
from condinst_deploy.runtime.cpu_features import products_may_overflow
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.runtime.options import PredictorOptions
from condinst_deploy.runtime.predictor import stages_of
from condinst_deploy.runtime.preprocessing.types import Inputs
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.dense_masks import dense_rles
from tests.support.exports import save_int8, save_r50
from tests.support.models import IMAGES

WIDTH, HEIGHT = 1333, 800
NETWORK = (800, 1344)
INSTANCES = 100

SAME = Tolerance(boxes=0.02, scores=2e-5, mask_iou=0.99)
"""Random weights make some small masks, of which a pixel is a share."""

WARM_UP = 2
PAUSE = 0.5
"""Seconds before each turn."""

NETWORK_TARGET, IMAGE_TARGET = 1.05, 0.70
INT8_NETWORK_TARGET, INT8_IMAGE_TARGET = 0.40, 0.50

Side = Literal["eager", "eager, channels last", "onnxruntime", "onnxruntime, sleeping", "onnxruntime, int8"]
Work = Literal["network", "image"]
INT8: Side = "onnxruntime, int8"
SIDES: tuple[Side, ...] = tuple(side for side in get_args(Side) if side != INT8)
WORK: dict[Work, tuple[Side, ...]] = {"network": SIDES, "image": ("eager", "onnxruntime")}
INT8_WORK: dict[Work, tuple[Side, ...]] = {"network": ("onnxruntime", INT8), "image": ("onnxruntime", INT8)}

Seconds = dict[Work, dict[Side, list[float]]]


class ChannelsLastBackend(TorchBackend):
    """The eager model with the layout and the mode that suit PyTorch on a CPU."""

    def forward(self, inputs: Inputs) -> NetworkOutputs:
        images, sizes = (torch.from_numpy(array) for array in inputs.on_host())
        with torch.inference_mode():
            outputs = self.model(images.contiguous(memory_format=torch.channels_last), sizes)
        return NetworkOutputs(*(tensor.numpy() for tensor in outputs))


def load_backend(side: Side, folder: Path) -> Backend:
    if side.startswith("onnxruntime"):
        name = "r50.int8.onnx" if side == INT8 else "r50.onnx"
        return OnnxRuntimeBackend.load(folder / name, "cpu", CpuThreads(spin=side != "onnxruntime, sleeping"))
    if side == "eager":
        return TorchBackend.load(folder / "r50.pth", "cpu")
    backend = ChannelsLastBackend.load(folder / "r50.pth", "cpu")
    backend.model.to(memory_format=torch.channels_last)
    return backend


def photograph() -> RGBArray:
    """RGB `(800, 1333, 3)`, which is resized no more."""
    image = Image.open(IMAGES / "coffee.png").convert("RGB")
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))


class Turns:
    """What one side computes when it is its turn."""

    def __init__(self, side: Side, folder: Path) -> None:
        self.backend, self.image = load_backend(side, folder), photograph()
        self.encode = compact_masks if side.startswith("onnxruntime") else dense_masks
        self.stages = stages_of(self.backend, PredictorOptions())
        self.inputs, _ = self.prepared()

    def prepared(self) -> tuple[Inputs, ImageGeometry]:
        _, geometry, inputs = self.stages.prepare(self.image, "photograph")
        return self.stages.collate([inputs]), geometry

    def network(self) -> NetworkOutputs:
        return self.backend.forward(self.inputs).on_host()

    def image_to_rle(self) -> list[Any]:
        inputs, geometry = self.prepared()
        return self.encode(self.backend, self.backend.forward(inputs).on_host(), geometry)


def compact_masks(backend: Backend, outputs: NetworkOutputs, geometry: ImageGeometry) -> list[Any]:
    (found,) = backend.postprocess(outputs, [geometry])
    return list(found.masks.rle())


def dense_masks(backend: Backend, outputs: NetworkOutputs, geometry: ImageGeometry) -> list[Any]:
    """The references' way; `backend` has no part in it."""
    return dense_rles(torch.from_numpy(outputs.mask_logits[0, : outputs.num_detections[0]]), geometry)


def serve(side: Side, folder: Path, cores: set[int], pipe: Connection) -> None:
    """A process: takes the name of some work, does it, and answers with its seconds; "outputs" gives the outputs."""
    os.sched_setaffinity(0, cores)
    torch.set_num_threads(len(cores))
    turns = Turns(side, folder)
    work: Mapping[str, Callable[[], object]] = {"network": turns.network, "image": turns.image_to_rle}
    pipe.send("ready")
    while (name := pipe.recv()) != "stop":
        if name == "outputs":
            pipe.send(turns.network())
            continue
        started = time.perf_counter()
        work[name]()
        pipe.send(time.perf_counter() - started)


@contextmanager
def processes(folder: Path, cores: set[int], sides: Sequence[Side]) -> Iterator[dict[Side, Connection]]:
    """One for each side, all on the same cores, ready and blocked."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[Side, Connection] = {}
    children = []
    try:
        for side in sides:
            pipes[side], end = context.Pipe()
            children.append(context.Process(target=serve, args=(side, folder, cores, end), daemon=True))
            children[-1].start()
            end.close()  # so that a child that dies is an EOFError here
            pipes[side].recv()
        yield pipes
        for pipe in pipes.values():
            pipe.send("stop")
    finally:
        for child in children:
            child.join(10)
            child.kill()


def asked(pipe: Connection, work: str) -> Any:
    time.sleep(PAUSE)
    pipe.send(work)
    return pipe.recv()


def check(pipes: Mapping[Side, Connection], folder: Path) -> dict[str, Any]:
    """Every side in float32 finds the same `INSTANCES`."""
    with OnnxRuntimeBackend.load(folder / "r50.onnx", "cpu") as backend:
        image = photograph()
        geometry = backend.geometry(image)
        if geometry.padded != NETWORK:
            raise RuntimeError(f"the network sees {geometry.padded}; expected {NETWORK}")
        found = {side: backend.postprocess(asked(pipe, "outputs"), [geometry])[0] for side, pipe in pipes.items()}
    int8 = found.pop(INT8, None)
    eager = found.pop("eager" if int8 is None else "onnxruntime")
    if int8 is not None:
        return {"instances": len(eager), "int8_matched": agreement(eager, int8).matched}
    for side, detections in found.items():
        result = agreement(eager, detections)
        if len(detections) != INSTANCES or not result.within(SAME):
            raise RuntimeError(f"{side} finds {len(detections)} instances, {result}; expected the eager {INSTANCES}")
    areas = eager.masks.areas / (WIDTH * HEIGHT)
    return {"instances": INSTANCES, "median_mask_area": round(float(np.median(areas)), 4)}


def measured(pipes: Mapping[Side, Connection], rounds: int, plan: Mapping[Work, Sequence[Side]]) -> Seconds:
    order = random.Random(0)
    seconds: Seconds = {work: {side: [] for side in sides} for work, sides in plan.items()}
    for i in range(-WARM_UP, rounds):
        for work, sides in plan.items():
            times = {side: asked(pipes[side], work) for side in order.sample(sides, len(sides))}
            print(f"round {i + 1} of {rounds}, {work}:", *(f"{s} {t:.2f} s;" for s, t in times.items()), flush=True)
            if i >= 0:
                for side, value in times.items():
                    seconds[work][side].append(value)
    return seconds


def ratio(seconds: Mapping[Side, list[float]], reference: Side, side: Side = "onnxruntime") -> float:
    """Median of the rounds' ratios, a side's time over the reference's."""
    pairs = zip(seconds[side], seconds[reference], strict=True)
    return median(ours / theirs for ours, theirs in pairs)


def targets_of(seconds: Seconds) -> list[Target]:
    network, image = seconds["network"], seconds["image"]
    eager = "times eager PyTorch"
    return [
        Target.at_most("network, 800x1344, 100 instances", ratio(network, "eager"), NETWORK_TARGET, eager),
        Target.without("network beside eager with channels last", ratio(network, "eager, channels last"), eager),
        Target.without("network beside threads that sleep", ratio(network, "onnxruntime, sleeping"), "times its time"),
        Target.at_most("image to RLE, 1333x800", ratio(image, "eager"), IMAGE_TARGET, f"{eager} and dense masks"),
    ]


def int8_targets_of(seconds: Seconds) -> list[Target]:
    """The INT8 file beside the float32 file; without VNNI nothing was asked."""
    limits: dict[Work, tuple[str, float]] = {
        "network": ("network, 800x1344", INT8_NETWORK_TARGET),
        "image": ("image to RLE, 1333x800", INT8_IMAGE_TARGET),
    }
    found = {name: (ratio(seconds[work], "onnxruntime", INT8), limit) for work, (name, limit) in limits.items()}
    unit = "times the float32 file"
    if products_may_overflow():
        return [Target.without(f"INT8 file without VNNI, {name}", value, unit) for name, (value, _) in found.items()]
    return [Target.at_most(f"INT8 file, {name}", value, limit, unit) for name, (value, limit) in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="threads of either side, a core each (2)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--int8", action="store_true", help="the INT8 file beside the float32 file, and nothing else")
    parser.add_argument("--out", type=Path, help="file for the results")
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= arguments.threads <= len(cores):
        parser.error(f"--threads is {arguments.threads}; this process may use {len(cores)} cores")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_r50(folder / "r50.pth", folder / "r50.onnx")
        if arguments.int8:
            save_int8(folder / "r50.onnx", folder / "r50.int8.onnx", IMAGES)
        plan = INT8_WORK if arguments.int8 else WORK
        with processes(folder, set(cores[: arguments.threads]), plan["network"]) as pipes:
            metrics = check(pipes, folder)
            seconds = measured(pipes, arguments.rounds, plan)
    targets = int8_targets_of(seconds) if arguments.int8 else targets_of(seconds)
    for target in targets:
        print(f"{target.name}: {target.measured} {target.unit}; {target.target or 'no target'}")
    medians = {
        work: {side: round(median(times), 4) for side, times in sides.items()} for work, sides in seconds.items()
    }
    print(json.dumps(medians, indent=1))
    metrics |= {"weights": "seed 0", "threads": arguments.threads, "rounds": arguments.rounds}
    if arguments.out is not None:
        write_results(arguments.out, targets, metrics | {"median_seconds": medians, "seconds": seconds})


if __name__ == "__main__":
    main()
