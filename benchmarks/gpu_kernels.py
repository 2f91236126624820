"""The fused kernels on a GPU beside their rivals: the mask head, and the selection of instances."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms

from benchmarks.gpu_timing import kernel_milliseconds, milliseconds
from condinst_deploy.kernels.operations import fused_operations
from condinst_deploy.model.mask_head import dynamic_mask_head, split_params
from condinst_deploy.model.select import select_instances

HEIGHT, WIDTH = 800, 1344
ROTATION = 8
IOU, SLOTS = 0.6, 100
LIMITS = {True: 2e-3, False: 1e-2}
"""Error of a mask head in float16 over the largest logit, fused or not; rivals keep layers' results in float16."""


def timed(
    call: Callable[..., Any], make: Callable[[int], tuple[Any, ...]], input_bytes: int | None = None
) -> dict[str, Any]:
    """As called from Python, and one among many in a CUDA graph; see `kernel_milliseconds`."""
    inputs = [make(seed) for seed in range(ROTATION)]
    return {"called": milliseconds(call, inputs), "graph": kernel_milliseconds(call, make, input_bytes)}


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


def candidates_of_objects(batch: int, seed: int) -> tuple[Any, ...]:
    """As `candidates`, about 40 objects: most overlap a better one, so the kernel goes through all of them."""
    random = torch.Generator("cuda").manual_seed(seed)
    boxes, scores, labels, *rest = candidates(batch, seed)
    objects = torch.randint(40, (batch, 5000), generator=random, device="cuda")
    moved = 1 + 0.02 * torch.rand(batch, 5000, 4, generator=random, device="cuda")
    boxes = boxes.gather(1, objects[..., None].expand(-1, -1, 4)) * moved
    return boxes, scores, labels.gather(1, objects), *rest


def torchvisions(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, slots: int) -> list[Tensor]:
    images = zip(boxes, scores, labels, strict=True)
    return [batched_nms(*image, iou)[:slots] for image in images]


def selections(batch: int) -> dict[str, Any]:
    fused = fused_operations().select
    for make in (candidates, candidates_of_objects):
        for seed in range(2):
            check_selection(fused, *make(batch, seed))
    # torchvision's asks the GPU how many it kept, which no graph can hold
    rival = milliseconds(torchvisions, [candidates(batch, seed) for seed in range(ROTATION)], 50)
    return {
        "fused": timed(fused, lambda seed: candidates(batch, seed)),
        "fused, 40 objects": timed(fused, lambda seed: candidates_of_objects(batch, seed)),
        "torchvision": {"called": rival},
    }


def check_selection(
    fused: Callable[..., tuple[Tensor, Tensor]], boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, slots: int
) -> None:
    """See that the kernel keeps the reference's candidates."""
    found = fused(boxes, scores, labels, iou, slots)
    want = select_instances(boxes.cpu(), scores.cpu(), labels.cpu(), iou, slots)
    if not all(torch.equal(ours.cpu(), theirs) for ours, theirs in zip(found, want, strict=True)):
        raise RuntimeError("the fused selection keeps other candidates than the reference; nothing to time")
