"""The half-precision network on a GPU, and masks from its logits: made on the GPU, and on the host."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu_kernels import HEIGHT, ROTATION, SLOTS, WIDTH, timed
from benchmarks.gpu_timing import captured, milliseconds
from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest, NetworkOutputs, contiguous_ids
from condinst_deploy.kernels.extents import mask_extents
from condinst_deploy.kernels.operations import fused_operations
from condinst_deploy.kernels.runs import RunFinder
from condinst_deploy.kernels.runs_launch import launches, run_starts
from condinst_deploy.model.condinst import CondInst, Features, Instances
from condinst_deploy.model.fixed_slots import FixedSlots
from condinst_deploy.model.folding import fold_batch_norms
from condinst_deploy.model.mask_paste import dense_probabilities
from condinst_deploy.runtime.device_outputs import DeviceOutputs, on_host
from condinst_deploy.runtime.device_postprocess import detections_from_device
from condinst_deploy.runtime.mask_crops import mask_crops
from condinst_deploy.runtime.postprocess import ResultFilter, detections_from_outputs

UNDECIDED = 5e-5
"""Probabilities this close to 0.5 may fall on either side."""


def masks(original: tuple[int, int], device: str = "cuda") -> dict[str, Any]:
    """From logits to compact masks: the kernels alone, and all of the postprocessing on either side."""
    geometry = ImageGeometry.of(original, coco_manifest().preprocessing)
    inputs = [ellipses(seed, geometry, device) for seed in range(ROTATION)]
    (found,) = masks_on_device(filled_slots(inputs[0]), [geometry])
    require_dense_masks(inputs[0][0], geometry, found)
    runs = timed(found_runs, lambda seed: searching(ellipses(seed, geometry, device), geometry), inputs[0].nbytes)
    outputs = [(filled_slots(logits), [geometry]) for logits in inputs]
    areas = found.masks.areas / (original[0] * original[1])
    return {
        "median_area": round(float(np.median(areas)), 4),
        "largest_area": round(float(areas.max()), 4),
        "runs_bytes": sum(runs_of_mask.nbytes for runs_of_mask in found.masks.runs),
        "logits_bytes": inputs[0].nbytes,
        "extents_kernel": timed(mask_extents, lambda seed: (ellipses(seed, geometry, device),)),
        "runs_kernels": runs,
        "postprocessing_on_the_gpu": milliseconds(masks_on_device, outputs, 50),
        "postprocessing_on_the_host": milliseconds(masks_on_host, outputs, 10),
    }


def ellipses(seed: int, geometry: ImageGeometry, device: str = "cuda") -> Tensor:
    """Mask logits `(1, SLOTS, h, w)` in float16, a copy on the device; there are as many as ROTATION."""
    return ellipses_on_host(seed % ROTATION, geometry).to(device, copy=True)


@cache
def ellipses_on_host(seed: int, geometry: ImageGeometry) -> Tensor:
    """Areas of 5 % of the image in the median, the first of 35 %."""
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
    return (smooth + 0.3 * torch.randn(smooth.shape, generator=random))[None].half()


def filled_slots(logits: Tensor) -> Instances:
    """Outputs whose slots all hold a detection with these masks."""
    batch, slots = logits.shape[:2]
    scores = torch.linspace(0.9, 0.1, slots, device=logits.device).expand(batch, slots).contiguous()
    boxes = torch.tensor([0.0, 0.0, 8.0, 8.0], device=logits.device).expand(batch, slots, 4).contiguous()
    return Instances(torch.full((batch,), slots, device=logits.device), boxes, scores, (scores * 0).int(), logits)


def coco_manifest() -> ModelManifest:
    names = tuple(str(i) for i in range(80))
    return ModelManifest(names, contiguous_ids(names))


def masks_on_host(outputs: Instances, geometries: list[ImageGeometry]) -> list[InstanceDetections]:
    """All logits cross, and the host makes the masks."""
    return detections_from_outputs(NetworkOutputs(*on_host(*outputs)), geometries, coco_manifest(), ResultFilter())


def masks_on_device(outputs: Instances, geometries: list[ImageGeometry]) -> list[InstanceDetections]:
    """Runs cross."""
    return detections_from_device(DeviceOutputs.of(outputs), geometries, coco_manifest(), ResultFilter())


def require_dense_masks(logits: Tensor, geometry: ImageGeometry, found: InstanceDetections) -> None:
    """Equal to the references' dense masks, ten at a time."""
    for start in range(0, len(found), 10):
        probabilities = dense_probabilities(logits[start : start + 10].float(), geometry)
        ours = torch.from_numpy(np.asarray(found.masks[start : start + 10])).to(probabilities.device)
        if bool(((ours != (probabilities > 0.5)) & ((probabilities - 0.5).abs() > UNDECIDED)).any()):
            raise RuntimeError("masks made on the device differ from the dense ones; nothing to time")


def searching(logits: Tensor, geometry: ImageGeometry) -> tuple[RunFinder, Tensor, Tensor]:
    """Arguments of `found_runs`: tables and memory on the GPU, and the room for the runs."""
    (extents,) = on_host(mask_extents(logits))
    found = mask_crops(extents, [np.arange(logits.shape[1])], [geometry], tuple(logits.shape))
    (launch,) = launches(found)
    finder = RunFinder(logits, launch, found.columns)
    starts = run_starts(finder.count().cpu().numpy())
    runs = torch.empty(int(starts[-1]), dtype=torch.int64, device=logits.device)
    return finder, torch.from_numpy(starts).to(logits.device), runs


def found_runs(finder: RunFinder, starts: Tensor, runs: Tensor) -> None:
    """All four launches, without the host between them."""
    finder.count()
    finder.write(starts, runs)


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


def replayed(graph: FixedSlots, images: Tensor, sizes: Tensor) -> Callable[[Tensor], Instances]:
    """Images on the host -> outputs on the GPU, as one CUDA graph; they hold until the next call.

    Random weights give masks of 40 % of the frame, which no detector has: the masks are ellipses.
    """
    own, batch = images.clone(), len(images)
    replay = captured(lambda: graph(own, sizes))
    geometry = ImageGeometry((HEIGHT, WIDTH), (HEIGHT, WIDTH), (HEIGHT, WIDTH))
    outputs = filled_slots(torch.cat([ellipses(seed, geometry, str(images.device)) for seed in range(batch)]))

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
    """Require the same slots; one pixel in 100,000 may differ, because the two sides round exponentials differently."""
    if not sum(int(each.masks.areas.sum()) for each in theirs):
        raise RuntimeError("no mask has a pixel; nothing to compare or to time")
    for a, b in zip(ours, theirs, strict=True):
        pairs = zip(a.masks, b.masks, strict=True)
        differing = sum(int(np.count_nonzero(np.asarray(x) != np.asarray(y))) for x, y in pairs)
        if not np.array_equal(a.scores, b.scores) or differing > 1e-5 * b.masks.areas.sum():
            raise RuntimeError(f"masks made on either side differ in {differing} pixels; nothing to time")
