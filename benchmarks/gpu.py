"""The fused kernels, the network and streams on an NVIDIA GPU; one command, results as JSON.

    PYTHONPATH=.:export:engines python -m benchmarks.gpu --out benchmarks/results/gpu.json

The parts run one after the other, the most wanted first, and the file is written after each. A part that fails, or for
which no time is left (`--minutes`), is named in the file and the others go on: they run in a process of their own, and
a part that breaks the GPU, crashes or hangs is followed by a new one (`benchmarks/gpu_processes.py`). Every form is
compared with the reference in float32, without TF32, before it is timed. Kernels are timed many in a graph, with inputs
that are not in the cache (`benchmarks/gpu_timing.py`). The network has seeded random weights of R-50; its floating
point operations are counted. Masks are made from seeded ellipses, a hundred an image, half of them above 5 % of the
frame.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_kernels import mask_heads, selections
from benchmarks.gpu_network import masks, network
from benchmarks.gpu_processes import measured_in_processes, read
from benchmarks.gpu_streams import eight_threads, engine_stream, growth, onnxruntime_stream, torch_stream
from benchmarks.gpu_timing import measured_bandwidth, measured_peak
from benchmarks.targets import Target, read_targets, results_of
from condinst_deploy.runtime.coco_results import write_json

ORIGINALS = ((800, 1333), (480, 640), (3000, 4000))
PACKAGES = ("numpy", "torch", "torchvision", "triton", "cuda-bindings", "tensorrt", "tensorrt-rtx", "onnxruntime-gpu")
MINUTES = 9.0

BROKEN = 4
"""Exit status of a process whose GPU cannot be used any more."""


@dataclass(frozen=True)
class Part:
    """Something that is measured for itself."""

    name: str
    measure: Callable[[], dict[str, Any]]
    targets: Callable[[dict[str, Any]], list[Target]]
    seconds: float  # that it takes, about


@dataclass
class Run:
    """Results so far; the file is written after each part."""

    out: Path | None
    minutes: float
    metrics: dict[str, Any] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)
    running: str | None = None
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def continued(cls, out: Path, minutes: float) -> "Run":
        """Go on where another process has stopped."""
        state = read(out)
        targets = read_targets(out) if out.exists() else []
        return cls(out, minutes, state["parts"], targets, state["not_measured"])

    def take(self, part: Part) -> None:
        """Measure a part where time is left; an error stays with the part."""
        self.running = part.name
        self.write()
        left = 60 * self.minutes - (time.monotonic() - self.started)
        if left < part.seconds:
            self.not_measured[part.name] = (
                f"{left:.0f} s were left of {self.minutes:g} minutes; it takes {part.seconds:.0f} s"
            )
        else:
            begun = time.monotonic()
            try:
                found = part.measure()
                self.metrics[part.name] = found | {"seconds": round(time.monotonic() - begun, 1)}
                self.targets += part.targets(found)
            except Exception as e:  # whatever it is, the other parts are worth their time
                self.not_measured[part.name] = f"{type(e).__name__}: {e}"[:2000]
        state = self.not_measured.get(part.name, "measured")
        print(f"{part.name}: {state}", file=sys.stderr, flush=True)
        self.running = None
        self.write()

    def results(self) -> dict[str, Any]:
        """Everything, as the file has it."""
        metrics = {"parts": self.metrics, "not_measured": self.not_measured, "running": self.running}
        return results_of(self.targets, metrics, PACKAGES)

    def write(self) -> None:
        """Write the file whole."""
        if self.out is not None:
            write_json(self.out, self.results())


def no_targets(_: dict[str, Any]) -> list[Target]:
    return []


def mask_head_targets(found: dict[str, Any]) -> list[Target]:
    us = 1000 * found["fused"]["graph"]["median_ms"]
    return [
        Target.at_most("mask head, K = 100, float16", us, 12, "us"),
        Target.at_least(
            "mask head, K = 100: grouped convolution / ours", found["speedup_over_grouped_convolution"], 5, "x"
        ),
    ]


def selection_targets(found: dict[str, Any]) -> list[Target]:
    one, eight = (found[f"batch {n}"]["fused"]["graph"]["median_ms"] for n in (1, 8))
    crowded = found["batch 1"]["fused, 40 objects"]["graph"]["median_ms"]
    return [
        Target.at_most("selection of 5,000 candidates", one, 0.3, "ms"),
        Target.at_most("selection of 5,000 candidates of 40 objects", crowded, 0.3, "ms"),
        Target.at_most("selection, batch 8 / batch 1", eight / one, 1.5, ""),
    ]


def mask_targets(size: str) -> Callable[[dict[str, Any]], list[Target]]:
    def targets(found: dict[str, Any]) -> list[Target]:
        us = 1000 * found["runs_kernels"]["graph"]["median_ms"]
        whole = found["postprocessing_on_the_gpu"]["median_ms"]
        kernel = f"masks at {size}, the four kernels that find runs"
        first = Target.at_most(kernel, us, 60, "us") if size == "1333x800" else Target.without(kernel, us, "us")
        return [first, Target.without(f"postprocessing at {size}, 100 masks, one thread", whole, "ms")]

    return targets


def network_one_targets(found: dict[str, Any]) -> list[Target]:
    return [
        Target.without("network, float16, PyTorch, batch 1", found["median_ms"], "ms"),
        Target.at_most("end to end, batch 1, masks on the GPU", found["with_masks_on_the_gpu"]["median_ms"], 4, "ms"),
        Target.without("end to end, batch 1, masks on the host", found["with_masks_on_the_host"]["median_ms"], "ms"),
    ]


def network_eight_targets(found: dict[str, Any]) -> list[Target]:
    share = found["share_of_measured_peak"]
    return [Target.at_least("network, float16, PyTorch, batch 8, share of the measured peak", share, 0.4, "")]


def stream_targets(name: str) -> Callable[[dict[str, Any]], list[Target]]:
    def targets(found: dict[str, Any]) -> list[Target]:
        return [Target.at_least(f"stream of JPEGs of mixed sizes, {name}", found["images_per_s"], 500, "images/s")]

    return targets


def engine_targets(found: dict[str, Any]) -> list[Target]:
    share = found["network_share_of_measured_peak"]
    name = "network, float16, TensorRT, batch 8, share of the measured peak"
    return [*stream_targets("engine")(found), Target.at_least(name, share, 0.45, "")]


def onnxruntime_targets(found: dict[str, Any]) -> list[Target]:
    return [Target.without("stream of JPEGs of mixed sizes, ONNX Runtime, float16", found["images_per_s"], "images/s")]


def thread_targets(found: dict[str, Any]) -> list[Target]:
    return [Target.at_most("eight threads: images with other results than one after the other", found["other"], 0, "")]


def growth_targets(found: dict[str, Any]) -> list[Target]:
    return [
        Target.at_most("memory of the GPU, grown over 10,000 images", found["gpu_grown_mb"], 16, "MB"),
        Target.at_most("memory of the host, grown over 10,000 images", found["host_grown_mb"], 64, "MB"),
    ]


def parts() -> list[Part]:
    """All parts, the most wanted first; the first gives what others are compared with."""
    peak: dict[str, float] = {}

    def machine_peak() -> dict[str, Any]:
        peak["tflops"] = measured_peak()
        return {"float16_peak_tflops": round(peak["tflops"], 1), "copy_gb_per_s": round(measured_bandwidth(), 1)}

    def network_of(batch: int) -> dict[str, Any]:
        if "tflops" not in peak:
            machine_peak()
        return network(batch, peak["tflops"])

    def engine() -> dict[str, Any]:
        if "tflops" not in peak:
            machine_peak()
        return engine_stream(peak["tflops"])

    def selection() -> dict[str, Any]:
        return {f"batch {batch}": selections(batch) for batch in (1, 8)}

    return [
        Part("peak", machine_peak, no_targets, 5),
        Part("mask head, K = 100", lambda: mask_heads(100), mask_head_targets, 10),
        Part("selection", selection, selection_targets, 20),
        Part("network, batch 1", lambda: network_of(1), network_one_targets, 30),
        Part("network, batch 8", lambda: network_of(8), network_eight_targets, 40),
        Part("masks, 1333x800", lambda: masks(ORIGINALS[0]), mask_targets("1333x800"), 20),
        Part("stream, PyTorch", torch_stream, stream_targets("PyTorch, float16"), 60),
        Part("masks, 4000x3000", lambda: masks(ORIGINALS[2]), mask_targets("4000x3000"), 40),
        Part("stream, engine", engine, engine_targets, 90),
        Part("stream, ONNX Runtime", onnxruntime_stream, onnxruntime_targets, 90),
        Part("eight threads", eight_threads, thread_targets, 20),
        Part("growth", growth, growth_targets, 60),
        Part("masks, 640x480", lambda: masks(ORIGINALS[1]), mask_targets("640x480"), 15),
        Part("mask head, K = 300", lambda: mask_heads(300), no_targets, 15),
    ]


def exact_float32() -> None:
    """Let float32 be float32: the references must not run with TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def gpu_works() -> bool:
    """False after an error that stays: every later part of this process would fail, too."""
    try:
        return float(torch.ones(1, device="cuda") + 1) == 2
    except RuntimeError:
        return False


def measure_here(chosen: list[Part], out: Path, minutes: float) -> int:
    """Measure parts in this process, and stop if the GPU is broken."""
    exact_float32()
    run = Run.continued(out, minutes)
    with torch.no_grad():
        for part in chosen:
            run.take(part)
            if part.name in run.not_measured and not gpu_works():
                return BROKEN
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the results; they are printed as well")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time for all parts together")
    parser.add_argument("--only", nargs="+", metavar="PART", help="names of parts")
    parser.add_argument("--here", action="store_true", help="in this process, to add to the results in the file")
    arguments = parser.parse_args()
    chosen = [part for part in parts() if arguments.only is None or part.name in arguments.only]
    if not chosen:
        print(f"error: no such part; there are {', '.join(part.name for part in parts())}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("error: PyTorch sees no NVIDIA GPU on this machine; run this on one that has it", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        out: Path = arguments.out or Path(folder) / "gpu.json"
        if arguments.here:
            return measure_here(chosen, out, arguments.minutes)
        out.unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.gpu", "--here", "--out", str(out)]
        estimates = {part.name: part.seconds for part in chosen}
        measured_in_processes(command, out, estimates, 60 * arguments.minutes)
        state = read(out)
    print(json.dumps(state, indent=1))
    return 0 if not state["not_measured"] else 3


if __name__ == "__main__":
    sys.exit(main())
