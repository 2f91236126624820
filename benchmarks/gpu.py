"""The fused kernels, and the network with them, on an NVIDIA GPU; one command, results as JSON.

    python -m benchmarks.gpu --out benchmarks/results/gpu.json

Every form is compared with the reference in float32 before it is timed. Times are medians of many runs between CUDA
events, over inputs that rotate so that none stays in the cache. The network has seeded random weights of R-50; masks
are made from seeded ellipses, a hundred an image, half of them above 5 % of the frame, at three original sizes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms

from benchmarks.targets import Target, results_of
from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest, NetworkOutputs, contiguous_ids
from condinst_deploy.kernels import paste
from condinst_deploy.kernels.operations import fused_operations
from condinst_deploy.model.condinst import CondInst, Features, Instances
from condinst_deploy.model.mask_head import dynamic_mask_head, split_params
from condinst_deploy.model.mask_paste import dense_probabilities
from condinst_deploy.model.select import select_instances
from condinst_deploy.runtime.coco_results import write_json
from condinst_deploy.runtime.device_outputs import DeviceOutputs, on_host
from condinst_deploy.runtime.device_postprocess import crop_rows, detections_from_device
from condinst_deploy.runtime.postprocess import ResultFilter, detections_from_outputs
from condinst_export.graph import ExportGraph

HEIGHT, WIDTH = 800, 1344
GFLOP = 480  # of the network for one image of that size
ROTATION = 8
WARM_UP, RUNS = 20, 200
IOU, SLOTS = 0.6, 100
ORIGINALS = ((800, 1333), (480, 640), (3000, 4000))
UNDECIDED = 5e-5
"""Probabilities this close to 0.5 may fall on either side."""
FUSED_ERROR, RIVAL_ERROR = 2e-3, 1e-2
"""Of a mask head in float16, over the largest logit; the rivals keep all that is between layers in float16."""
DEVICE = "cuda"
PACKAGES = ("numpy", "torch", "torchvision", "triton")


def milliseconds(call: Callable[..., Any], inputs: Sequence[tuple[Any, ...]], runs: int = RUNS) -> dict[str, float]:
    """Median and 99th percentile of `call(*inputs[i])`, i going round."""
    for i in range(WARM_UP):
        call(*inputs[i % len(inputs)])
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    torch.cuda.synchronize()
    for i, (start, stop) in enumerate(events):
        start.record()
        call(*inputs[i % len(inputs)])
        stop.record()
    torch.cuda.synchronize()
    times = [start.elapsed_time(stop) for start, stop in events]
    return {"median_ms": round(median(times), 5), "p99_ms": round(float(np.percentile(times, 99)), 5)}


def captured(call: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> list[tuple[Callable[[], None]]]:
    """One CUDA graph for each input: what is timed is the GPU, not Python's launches."""
    graphs = []
    for arguments in inputs:
        call(*arguments)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call(*arguments)
        graphs.append((graph.replay,))
    return graphs


def timed(call: Callable[..., Any], inputs: Sequence[tuple[Any, ...]]) -> dict[str, Any]:
    """As called from Python, and replayed from a CUDA graph."""
    replays = captured(call, inputs)
    return {"called": milliseconds(call, inputs), "graph": milliseconds(lambda replay: replay(), replays)}


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
    inputs = [mask_head_inputs(slots, seed) for seed in range(ROTATION)]
    forms: dict[str, Callable[..., Tensor]] = {
        "fused": fused_operations().mask_head,
        "batched products": batched_products,
        "grouped convolution": dynamic_mask_head,
    }
    feats, params, points, soi = inputs[0]
    want = dynamic_mask_head(feats.float(), params.float(), points, soi)
    results: dict[str, Any] = {}
    for name, form in forms.items():
        arguments = [(*each, 8) for each in inputs] if name == "fused" else inputs
        error = relative_error(name, form(*arguments[0]), want, FUSED_ERROR if name == "fused" else RIVAL_ERROR)
        results[name] = {"relative_error": error} | timed(form, arguments)
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
    inputs = [candidates(batch, seed) for seed in range(ROTATION)]
    fused = fused_operations().select
    for boxes, scores, labels, iou, slots in inputs:
        found = fused(boxes, scores, labels, iou, slots)
        want = select_instances(boxes.cpu(), scores.cpu(), labels.cpu(), iou, slots)
        if not all(torch.equal(ours.cpu(), theirs) for ours, theirs in zip(found, want, strict=True)):
            raise RuntimeError("the fused selection keeps other candidates than the reference; nothing to time")
    # torchvision's asks the GPU how many it kept, which no graph can hold
    return {"fused": timed(fused, inputs), "torchvision": {"called": milliseconds(torchvisions, inputs, 50)}}


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


def half_network() -> ExportGraph:
    torch.manual_seed(0)
    model = HalfCondInst().eval().cuda()
    assert model.head.cls_logits.bias is not None
    torch.nn.init.constant_(model.head.cls_logits.bias, -2.0)  # random weights that find something
    for part in (model.backbone, model.fpn, model.head, model.mask_branch):
        part.half().to(memory_format=torch.channels_last)
    return ExportGraph(model, fused_operations()).eval().cuda()


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
    prepared = [packing(logits, geometry) for logits in inputs]
    launches = [launch for launch, _ in prepared]
    packed = timed(paste.launch_packed_masks, launches)
    outputs = [(filled_slots(logits), [geometry]) for logits in inputs]
    areas = found.masks.areas / (original[0] * original[1])
    return {
        "median_area": round(float(np.median(areas)), 4),
        "largest_area": round(float(areas.max()), 4),
        "packed_bytes": launches[0][3].nbytes,
        "logits_bytes": inputs[0].nbytes,
        "extents_kernel": timed(paste.mask_extents, [(logits,) for logits in inputs]),
        "packed_masks_kernel": packed,
        "packed_masks_kernel_gb_per_s": round(median(n for _, n in prepared) / packed["graph"]["median_ms"] / 1e6, 1),
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
    outputs: Instances = graph(images[0], sizes)
    if not bool(torch.isfinite(outputs.mask_logits).all()):
        raise RuntimeError("the network gives NaN or infinity; nothing to time")
    found = milliseconds(lambda replay: replay(), captured(graph, [(image, sizes) for image in images]), 100)
    tflops = GFLOP * batch / found["median_ms"]
    return (
        found
        | {
            "detections": int(outputs.num_detections.sum()),
            "share_of_measured_peak": round(tflops / peak_tflops, 4),
        }
        | end_to_end(replayed(graph, images[0], sizes), [image.cpu().pin_memory() for image in images])
    )


def replayed(graph: ExportGraph, images: Tensor, sizes: Tensor) -> Callable[[Tensor], Instances]:
    """Images on the host -> the network's outputs on the GPU, as one CUDA graph; they hold until the next call."""
    own = images.clone()
    outputs: list[Instances] = []
    ((replay,),) = captured(lambda: outputs.append(graph(own, sizes)), [()])

    def run(given: Tensor) -> Instances:
        own.copy_(given, non_blocking=True)
        replay()
        return outputs[-1]  # what was captured; before it came the warm-up

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


def measured_peak() -> float:
    """TFLOP/s of a float16 product of 8192 x 8192 matrices of random numbers."""
    a, b = (torch.randn(8192, 8192, device="cuda").half() for _ in range(2))
    return 2 * 8192**3 / milliseconds(torch.matmul, [(a, b)], 50)["median_ms"] / 1e9


def measured() -> dict[str, Any]:
    peak = measured_peak()
    return {
        "float16_peak_tflops": round(peak, 1),
        "mask_head": {f"K = {slots}": mask_heads(slots) for slots in (100, 300)},
        "selection": {f"batch {batch}": selections(batch) for batch in (1, 8)},
        "masks": {f"{height}x{width}": masks((height, width)) for height, width in ORIGINALS},
        "network": {f"batch {batch}": network(batch, peak) for batch in (1, 8)},
    }


def targets_of(metrics: dict[str, Any]) -> list[Target]:
    """What was asked of each part."""
    targets = []
    for slots, limit in ((100, 20), (300, 60)):
        heads = metrics["mask_head"][f"K = {slots}"]
        speedup = heads["speedup_over_grouped_convolution"]
        targets += [
            Target.at_most(
                f"mask head, K = {slots}, float16", 1000 * heads["fused"]["graph"]["median_ms"], limit, "us"
            ),
            Target.at_least(f"mask head, K = {slots}: grouped convolution / ours", speedup, 5, "x"),
        ]
    one, eight = (metrics["selection"][f"batch {n}"]["fused"]["graph"]["median_ms"] for n in (1, 8))
    alone, together = (metrics["network"][f"batch {n}"] for n in (1, 8))
    return [
        *targets,
        Target.at_most("selection of 5,000 candidates", one, 0.3, "ms"),
        Target.at_most("selection, batch 8 / batch 1", eight / one, 1.5, ""),
        Target.at_most("network, float16, batch 1", alone["median_ms"], 3, "ms"),
        Target.at_least("network, batch 8, share of the measured peak", together["share_of_measured_peak"], 0.4, ""),
        Target.without("end to end, batch 1, masks on the GPU", alone["with_masks_on_the_gpu"]["median_ms"], "ms"),
        Target.without("end to end, batch 1, masks on the host", alone["with_masks_on_the_host"]["median_ms"], "ms"),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the results; they are printed as well")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("error: PyTorch sees no NVIDIA GPU on this machine; run this on one that has it", file=sys.stderr)
        return 1
    with torch.no_grad():
        metrics = measured()
    results = results_of(targets_of(metrics), metrics, PACKAGES)
    if arguments.out is not None:
        write_json(arguments.out, results)
    print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
