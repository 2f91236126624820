"""The fused kernels, the network and streams on an NVIDIA GPU; one command, results as JSON.

    PYTHONPATH=.:export:engines python -m benchmarks.gpu --out benchmarks/results/gpu.json

The parts run one after the other, the most wanted first, and the file is written after each. A part that fails, or for
which no time is left (`--minutes`), is named in the file and the others go on. Every form is compared with the
reference in float32, without TF32, before it is timed. Kernels are timed many in a graph, with inputs that are not in
the cache (`benchmarks/gpu_timing.py`). The network has seeded random weights of R-50; its floating point operations are
counted. Masks are made from seeded ellipses, a hundred an image, half of them above 5 % of the frame.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import batched_nms

from benchmarks.gpu_streams import eight_threads, engine_stream, growth, torch_stream
from benchmarks.gpu_timing import captured, kernel_milliseconds, measured_bandwidth, measured_peak, milliseconds
from benchmarks.targets import Target, results_of
from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest, NetworkOutputs, contiguous_ids
from condinst_deploy.kernels import paste
from condinst_deploy.kernels.operations import fused_operations
from condinst_deploy.model.condinst import CondInst, Features, Instances
from condinst_deploy.model.fixed_slots import FixedSlots
from condinst_deploy.model.folding import fold_batch_norms
from condinst_deploy.model.mask_head import dynamic_mask_head, split_params
from condinst_deploy.model.mask_paste import dense_probabilities
from condinst_deploy.model.select import select_instances
from condinst_deploy.runtime.coco_results import write_json
from condinst_deploy.runtime.device_outputs import DeviceOutputs, on_host
from condinst_deploy.runtime.device_postprocess import crop_rows, detections_from_device
from condinst_deploy.runtime.postprocess import ResultFilter, detections_from_outputs

HEIGHT, WIDTH = 800, 1344
ROTATION = 8
IOU, SLOTS = 0.6, 100
ORIGINALS = ((800, 1333), (480, 640), (3000, 4000))
UNDECIDED = 5e-5
"""Probabilities this close to 0.5 may fall on either side."""
LIMITS = {True: 2e-3, False: 1e-2}
"""Error of a mask head in float16 over the largest logit, fused or not; rivals keep layers' results in float16."""
DEVICE = "cuda"
PACKAGES = ("numpy", "torch", "torchvision", "triton", "cuda-bindings", "tensorrt", "tensorrt-rtx", "onnxruntime-gpu")
MINUTES = 9.0


def timed(call: Callable[..., Any], make: Callable[[int], tuple[Any, ...]], runs: int = 100) -> dict[str, Any]:
    """As called from Python, and one among many in a CUDA graph. `make` gives the arguments of a seed."""
    inputs = [make(seed) for seed in range(ROTATION)]
    return {"called": milliseconds(call, inputs, runs), "graph": kernel_milliseconds(call, make)}


def mask_head_inputs(slots: int, seed: int) -> tuple[Tensor, ...]:
    random = torch.Generator("cuda").manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, device="cuda").half()

    points = torch.rand(1, slots, 2, generator=random, device="cuda") * torch.tensor([WIDTH, HEIGHT], device="cuda")
    soi = 64.0 * 2 ** torch.randint(5, (1, slots), generator=random, device="cuda")
    return normal(1, 8, HEIGHT // 8, WIDTH // 8), normal(1, slots, 169), points, soi


def batched_products(feats: Tensor, params: Tensor, points: Tensor, soi: Tensor) -> Tensor:
    """The portable form: one product for the first layer of all instances, batched ones for the others."""
    batch, channels, height, width = feats.shape
    slots = params.shape[1]
    (w1, w2, w3), (b1, b2, b3) = split_params(params.reshape(-1, params.shape[2]), channels, 8)
    xs = torch.arange(width, device=feats.device) * 8.0 + 4
    ys = torch.arange(height, device=feats.device) * 8.0 + 4
    x, y = ((points[..., i, None] - p) / soi[..., None] for i, p in ((0, xs), (1, ys)))
    first = (w1[:, :, 2:].reshape(batch, -1, channels) @ feats.flatten(2)).reshape(batch, slots, 8, height, width)
    as_slots = (batch, slots, 8, 1)
    term_x = w1[:, :, 0].reshape(as_slots) * x[:, :, None] + b1.reshape(as_slots)
    term_y = w1[:, :, 1].reshape(as_slots) * y[:, :, None]
    hidden = F.relu(first + term_x[..., None, :] + term_y[..., None]).to(feats.dtype).reshape(batch * slots, 8, -1)
    hidden = F.relu(torch.baddbmm(b2[..., None], w2, hidden))
    return torch.baddbmm(b3[..., None], w3, hidden).reshape(batch, slots, height, width)


def mask_heads(slots: int) -> dict[str, Any]:
    forms: dict[str, Callable[..., Tensor]] = {
        "fused": fused_operations().mask_head,
        "batched products": batched_products,
        "grouped convolution": dynamic_mask_head,
    }
    feats, params, points, soi = mask_head_inputs(slots, 0)
    want = dynamic_mask_head(feats.float(), params.float(), points, soi)
    results: dict[str, Any] = {"moved_bytes": sum(x.nbytes for x in (feats, params)) + want.numel() * 2}
    for name, form in forms.items():
        hidden = (8,) if name == "fused" else ()
        error = relative_error(name, form(feats, params, points, soi, *hidden), want, LIMITS[name == "fused"])
        results[name] = {"relative_error": error}
        results[name] |= timed(form, lambda seed, hidden=hidden: (*mask_head_inputs(slots, seed), *hidden))  # type: ignore[misc]
    fused, grouped = (results[name]["graph"]["median_ms"] for name in ("fused", "grouped convolution"))
    return results | {"speedup_over_grouped_convolution": round(grouped / fused, 2)}


def relative_error(name: str, got: Tensor, want: Tensor, limit: float) -> float:
    """The largest error over the largest logit."""
    error = float((got.float() - want).abs().max() / want.abs().max())
    if not error <= limit:  # neither is NaN
        raise RuntimeError(f"the mask head {name!r} is {error:g} off, more than {limit:g}; nothing to time")
    return error


def candidates(batch: int, seed: int) -> tuple[Any, ...]:
    random = torch.Generator("cuda").manual_seed(seed)
    corner = torch.rand(batch, 5000, 2, generator=random, device="cuda") * torch.tensor([WIDTH, HEIGHT], device="cuda")
    side = 10 + torch.rand(batch, 5000, 2, generator=random, device="cuda") * 300
    scores = torch.rand(batch, 5000, generator=random, device="cuda")
    labels = torch.randint(80, (batch, 5000), generator=random, device="cuda", dtype=torch.int32)
    return torch.cat((corner, corner + side), 2), scores, labels, IOU, SLOTS


def torchvisions(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, slots: int) -> list[Tensor]:
    images = zip(boxes, scores, labels, strict=True)
    return [batched_nms(*image, iou)[:slots] for image in images]


def selections(batch: int) -> dict[str, Any]:
    fused = fused_operations().select
    for seed in range(2):
        boxes, scores, labels, iou, slots = candidates(batch, seed)
        found = fused(boxes, scores, labels, iou, slots)
        want = select_instances(boxes.cpu(), scores.cpu(), labels.cpu(), iou, slots)
        if not all(torch.equal(ours.cpu(), theirs) for ours, theirs in zip(found, want, strict=True)):
            raise RuntimeError("the fused selection keeps other candidates than the reference; nothing to time")
    # torchvision's asks the GPU how many it kept, which no graph can hold
    rival = milliseconds(torchvisions, [candidates(batch, seed) for seed in range(ROTATION)], 50)
    return {"fused": timed(fused, lambda seed: candidates(batch, seed)), "torchvision": {"called": rival}}


class HalfCondInst(CondInst):
    """Convolutions in float16, channels last; what decides about boxes and scores in float32."""

    def features_before_controller(self, normalized: Tensor) -> Features:
        levels, mask_feats, _ = super().features_before_controller(
            normalized.half().contiguous(memory_format=torch.channels_last)
        )
        wide = [
            level._replace(
                cls_logits=level.cls_logits.float(),
                centerness=level.centerness.float(),
                distances=level.distances.float(),
            )
            for level in levels
        ]
        return Features(wide, mask_feats.contiguous())


def half_network() -> FixedSlots:
    torch.manual_seed(0)
    model = HalfCondInst().eval().cuda()
    assert model.head.cls_logits.bias is not None
    torch.nn.init.constant_(model.head.cls_logits.bias, -2.0)  # random weights that find something
    fold_batch_norms(model)
    for part in (model.backbone, model.fpn, model.head, model.mask_branch):
        part.half().to(memory_format=torch.channels_last)
    return FixedSlots(model, fused_operations()).eval().cuda()


def ellipses(seed: int, geometry: ImageGeometry) -> Tensor:
    """Mask logits `(1, SLOTS, h, w)` in float16: areas of 5 % of the image in the median, the first of 35 %."""
    random = torch.Generator().manual_seed(seed)
    area = 0.05 * torch.exp(0.8 * torch.randn(SLOTS, generator=random)).clamp(max=6)  # of the image
    area[0] = 0.35
    stretch = torch.exp(0.3 * torch.randn(SLOTS, generator=random))
    radius = (area / torch.pi).sqrt()
    radii = torch.stack((radius * stretch, radius / stretch), 1)  # (SLOTS, y x) of the image's sides
    centres = 0.15 + 0.7 * torch.rand(SLOTS, 2, generator=random)
    y, x = (
        (((8 * torch.arange(padded // 8) + 4) / resized - centres[:, axis, None]) / radii[:, axis, None]) ** 2
        for axis, (padded, resized) in enumerate(zip(geometry.padded, geometry.resized, strict=True))
    )
    smooth = 6 * (1 - y[:, :, None] - x[:, None, :])  # (SLOTS, h, w)
    return (smooth + 0.3 * torch.randn(smooth.shape, generator=random))[None].half().to(DEVICE)


def filled_slots(logits: Tensor) -> Instances:
    """Outputs whose slots all hold a detection with these masks."""
    batch, slots = logits.shape[:2]
    scores = torch.linspace(0.9, 0.1, slots, device=DEVICE).expand(batch, slots).contiguous()
    boxes = torch.tensor([0.0, 0.0, 8.0, 8.0], device=DEVICE).expand(batch, slots, 4).contiguous()
    return Instances(torch.full((batch,), slots, device=DEVICE), boxes, scores, (scores * 0).int(), logits)


def coco_manifest() -> ModelManifest:
    names = tuple(str(i) for i in range(80))
    return ModelManifest(names, contiguous_ids(names))


def masks_on_host(outputs: Instances, geometries: list[ImageGeometry]) -> list[InstanceDetections]:
    """All logits cross, and the host makes the masks."""
    return detections_from_outputs(NetworkOutputs(*on_host(*outputs)), geometries, coco_manifest(), ResultFilter())


def masks_on_device(outputs: Instances, geometries: list[ImageGeometry]) -> list[InstanceDetections]:
    """Packed crops cross."""
    return detections_from_device(DeviceOutputs.of(outputs), geometries, coco_manifest(), ResultFilter())


def require_dense_masks(logits: Tensor, geometry: ImageGeometry, found: InstanceDetections) -> None:
    """Equal to the references' dense masks, ten at a time."""
    for start in range(0, len(found), 10):
        probabilities = dense_probabilities(logits[start : start + 10].float(), geometry)
        ours = torch.from_numpy(np.asarray(found.masks[start : start + 10])).to(DEVICE)
        if bool(((ours != (probabilities > 0.5)) & ((probabilities - 0.5).abs() > UNDECIDED)).any()):
            raise RuntimeError("masks made on the device differ from the dense ones; nothing to time")


def masks(original: tuple[int, int]) -> dict[str, Any]:
    """From logits to compact masks: the two kernels alone, and all of the postprocessing on either side."""
    geometry = ImageGeometry.of(original, coco_manifest().preprocessing)
    inputs = [ellipses(seed, geometry) for seed in range(ROTATION)]
    (found,) = masks_on_device(filled_slots(inputs[0]), [geometry])
    require_dense_masks(inputs[0][0], geometry, found)
    launch, moved = packing(inputs[0], geometry)
    packed = timed(paste.launch_packed_masks, lambda seed: packing(ellipses(seed % ROTATION, geometry), geometry)[0])
    outputs = [(filled_slots(logits), [geometry]) for logits in inputs]
    areas = found.masks.areas / (original[0] * original[1])
    return {
        "median_area": round(float(np.median(areas)), 4),
        "largest_area": round(float(areas.max()), 4),
        "packed_bytes": launch[3].nbytes,
        "logits_bytes": inputs[0].nbytes,
        "extents_kernel": timed(paste.mask_extents, lambda seed: (ellipses(seed % ROTATION, geometry),)),
        "packed_masks_kernel": packed,
        "packed_masks_kernel_gb_per_s": round(moved / packed["graph"]["median_ms"] / 1e6, 1),
        "postprocessing_on_the_gpu": milliseconds(masks_on_device, outputs, 50),
        "postprocessing_on_the_host": milliseconds(masks_on_host, outputs, 10),
    }


def packing(logits: Tensor, geometry: ImageGeometry) -> tuple[tuple[Tensor, Tensor, int, Tensor], int]:
    """Arguments of the second kernel's launch, and the bytes that it must move: logits of the extents, and crops."""
    (extents,) = on_host(paste.mask_extents(logits)[0])
    rows = crop_rows(extents, 0, np.arange(logits.shape[1]), geometry, logits)
    table, tiles, starts = paste.crop_table(rows)
    bits = torch.empty(int(starts[-1]), dtype=torch.uint8, device=DEVICE)
    cells = ((extents[:, 1] - extents[:, 0] + 1) * (extents[:, 3] - extents[:, 2] + 1))[extents[:, 1] >= 0]
    return (logits, table.to(DEVICE), tiles, bits), int(cells.sum()) * logits.element_size() + bits.nbytes


def network(batch: int, peak_tflops: float) -> dict[str, Any]:
    graph = half_network()
    images = [torch.randint(256, (batch, 3, HEIGHT, WIDTH), dtype=torch.uint8, device="cuda") for _ in range(2)]
    sizes = torch.tensor([[HEIGHT, WIDTH]] * batch, dtype=torch.int32, device="cuda")
    with FlopCounterMode(display=False) as counter:
        outputs: Instances = graph(images[0], sizes)
    if not bool(torch.isfinite(outputs.mask_logits).all()):
        raise RuntimeError("the network gives NaN or infinity; nothing to time")
    replays = [(captured(partial(graph, image, sizes)),) for image in images]
    found = milliseconds(lambda replay: replay(), replays, 100)
    gflop = counter.get_total_flops() / 1e9  # a product and a sum are two; the two fused kernels are not counted
    return (
        found
        | {
            "gflop_of_an_image": round(gflop / batch, 1),
            "detections": int(outputs.num_detections.sum()),
            "share_of_measured_peak": round(gflop / found["median_ms"] / peak_tflops, 4),
        }
        | end_to_end(replayed(graph, images[0], sizes), [image.cpu().pin_memory() for image in images])
    )


def replayed(graph: FixedSlots, images: Tensor, sizes: Tensor) -> Callable[[Tensor], Instances]:
    """Images on the host -> outputs on the GPU, as one CUDA graph; they hold until the next call.

    Random weights give masks of 40 % of the frame, which no detector has: the masks are ellipses.
    """
    own, batch = images.clone(), len(images)
    replay = captured(lambda: graph(own, sizes))
    geometry = ImageGeometry((HEIGHT, WIDTH), (HEIGHT, WIDTH), (HEIGHT, WIDTH))
    outputs = filled_slots(torch.cat([ellipses(seed, geometry) for seed in range(batch)]))

    def run(given: Tensor) -> Instances:
        own.copy_(given, non_blocking=True)
        replay()
        return outputs

    return run


def end_to_end(run: Callable[[Tensor], Instances], images: list[Tensor]) -> dict[str, dict[str, float]]:
    """Resized images on the host in, compact masks on the host out; masks are made on either side, and equal."""
    geometries = [ImageGeometry((HEIGHT, WIDTH), (HEIGHT, WIDTH), (HEIGHT, WIDTH))] * len(images[0])
    outputs = run(images[0])
    same_masks(masks_on_device(outputs, geometries), masks_on_host(outputs, geometries))
    inputs = [(image,) for image in images]
    return {
        "with_masks_on_the_gpu": milliseconds(lambda each: masks_on_device(run(each), geometries), inputs, 50),
        "with_masks_on_the_host": milliseconds(lambda each: masks_on_host(run(each), geometries), inputs, 10),
    }


def same_masks(ours: list[InstanceDetections], theirs: list[InstanceDetections]) -> None:
    """Of the same slots, but for one pixel in a hundred thousand: the two sides' exponentials round differently."""
    if not sum(int(each.masks.areas.sum()) for each in theirs):
        raise RuntimeError("no mask has a pixel; nothing to compare or to time")
    for a, b in zip(ours, theirs, strict=True):
        pairs = zip(a.masks, b.masks, strict=True)
        differing = sum(int(np.count_nonzero(np.asarray(x) != np.asarray(y))) for x, y in pairs)
        if not np.array_equal(a.scores, b.scores) or differing > 1e-5 * b.masks.areas.sum():
            raise RuntimeError(f"masks made on either side differ in {differing} pixels; nothing to time")


@dataclass(frozen=True)
class Part:
    """Something that is measured for itself."""

    name: str
    measure: Callable[[], dict[str, Any]]
    targets: Callable[[dict[str, Any]], list[Target]]
    seconds: float  # that it takes, about


@dataclass
class Run:
    """What was measured so far; the file is written after each part."""

    out: Path | None
    minutes: float
    metrics: dict[str, Any] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    not_measured: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def take(self, part: Part) -> None:
        """Measure a part where time is left; an error stays with the part."""
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
        self.write()

    def results(self) -> dict[str, Any]:
        """Everything, as the file has it."""
        metrics = {"parts": self.metrics, "not_measured": self.not_measured}
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
    return [
        Target.at_most("selection of 5,000 candidates", one, 0.3, "ms"),
        Target.at_most("selection, batch 8 / batch 1", eight / one, 1.5, ""),
    ]


def mask_targets(size: str) -> Callable[[dict[str, Any]], list[Target]]:
    def targets(found: dict[str, Any]) -> list[Target]:
        us = 1000 * found["packed_masks_kernel"]["graph"]["median_ms"]
        whole = found["postprocessing_on_the_gpu"]["median_ms"]
        kernel = f"masks at {size}, the second kernel"
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


def thread_targets(found: dict[str, Any]) -> list[Target]:
    return [Target.at_most("eight threads: images with other results than one after the other", found["other"], 0, "")]


def growth_targets(found: dict[str, Any]) -> list[Target]:
    return [
        Target.at_most("memory of the GPU, grown over 8,000 images", found["gpu_grown_mb"], 16, "MB"),
        Target.at_most("memory of the host, grown over 8,000 images", found["host_grown_mb"], 64, "MB"),
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

    def selection() -> dict[str, Any]:
        return {f"batch {batch}": selections(batch) for batch in (1, 8)}

    return [
        Part("peak", machine_peak, no_targets, 5),
        Part("mask head, K = 100", lambda: mask_heads(100), mask_head_targets, 10),
        Part("selection", selection, selection_targets, 15),
        Part("network, batch 1", lambda: network_of(1), network_one_targets, 30),
        Part("network, batch 8", lambda: network_of(8), network_eight_targets, 40),
        Part("masks, 1333x800", lambda: masks(ORIGINALS[0]), mask_targets("1333x800"), 20),
        Part("stream, PyTorch", torch_stream, stream_targets("PyTorch"), 60),
        Part("masks, 4000x3000", lambda: masks(ORIGINALS[2]), mask_targets("4000x3000"), 40),
        Part("stream, engine", engine_stream, stream_targets("engine"), 90),
        Part("eight threads", eight_threads, thread_targets, 20),
        Part("growth", growth, growth_targets, 60),
        Part("masks, 640x480", lambda: masks(ORIGINALS[1]), mask_targets("640x480"), 15),
        Part("mask head, K = 300", lambda: mask_heads(300), no_targets, 15),
    ]


def exact_float32() -> None:
    """Let float32 be float32: the references must not run with TF32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the results; they are printed as well")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="time for all parts together")
    parser.add_argument("--only", nargs="+", metavar="PART", help="names of parts")
    arguments = parser.parse_args()
    chosen = [part for part in parts() if arguments.only is None or part.name in arguments.only]
    if not chosen:
        print(f"error: no such part; there are {', '.join(part.name for part in parts())}", file=sys.stderr)
        return 2
    if not torch.cuda.is_available():
        print("error: PyTorch sees no NVIDIA GPU on this machine; run this on one that has it", file=sys.stderr)
        return 1
    exact_float32()
    run = Run(arguments.out, arguments.minutes)
    run.write()
    with torch.no_grad():
        for part in chosen:
            run.take(part)
    print(json.dumps(run.results(), indent=1))
    return 0 if not run.not_measured else 3


if __name__ == "__main__":
    sys.exit(main())
