"""The four training losses of CondInst, as mmdetection computes them; every weight is 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from condinst_deploy.model.condinst import Features
from condinst_deploy.model.config import MASK_STRIDE, SOI_STRIDES
from condinst_deploy.model.head import LevelOutputs
from condinst_deploy.model.mask_head import dynamic_mask_head
from condinst_deploy.model.resample import aligned_bilinear
from condinst_deploy.model.targets import Assignment, ImageTargets, Locations, assign, locations_of

MASK_TARGET_STRIDE = 4
"""Stride at which masks are learnt."""

DICE_EPSILON = 5e-6
GIOU_EPSILON = 1e-6


@dataclass(frozen=True)
class LossSettings:
    """Caps on the instances whose masks are learnt."""

    max_masks: int | None = 300  # positive points of a picture, drawn at random
    masks_per_image: int | None = None  # or the best so many, shared evenly over the picture's instances


class Losses(NamedTuple):
    """Scalars that `sum` to the total."""

    cls: Tensor
    box: Tensor
    centerness: Tensor
    mask: Tensor


class FlatOutputs(NamedTuple):
    """The head's outputs at all points of all levels."""

    cls_logits: Tensor  # (B, L, C)
    distances: Tensor  # (B, L, 4) in strides
    centerness: Tensor  # (B, L)
    params: Tensor  # (B, L, num_params)


Permutation = Callable[[int], Tensor]
"""`n` -> a random order of `n` things."""


def condinst_losses(
    features: Features,
    targets: Sequence[ImageTargets],
    settings: LossSettings,
    hidden: int = 8,
    average: Callable[[Tensor], Tensor] = lambda x: x,
    permutation: Permutation = torch.randperm,
) -> Losses:
    """Losses of one batch.

    Args:
        features: the convolutional part's outputs, with gradients.
        targets: one a picture, masks of the padded batch's size.
        settings: caps.
        hidden: hidden channels of the dynamic mask head.
        average: mean of a number over the processes that train together; the mask loss's normaliser stays
            each process's own.
        permutation: draws the instances kept under the cap.

    References:
        Focal loss (alpha 0.25, gamma 2) over the number of positives; GIoU weighted by the centerness target over
        the sum of these; binary cross-entropy of centerness over the number of positives; dice at stride 4
        over the instances learnt.
    """
    locations = locations_of(features.levels)
    flat = flat_outputs(features.levels)
    assignments = [assign(locations, target) for target in targets]
    num_pos = average(flat.centerness.new_tensor(float(sum(len(a.locations) for a in assignments)))).clamp(min=1)
    distances = torch.cat([flat.distances[i, a.locations] for i, a in enumerate(assignments)])
    wanted = torch.cat([a.distances for a in assignments])
    centerness = torch.cat([flat.centerness[i, a.locations] for i, a in enumerate(assignments)])
    wanted_centerness = centerness_targets(wanted)
    weight_sum = average(wanted_centerness.sum().detach()).clamp(min=1e-6)
    return Losses(
        cls=sigmoid_focal_loss(flat.cls_logits, _one_hot(flat, assignments, targets), reduction="sum") / num_pos,
        box=(giou_loss(distances, wanted) * wanted_centerness).sum() / weight_sum,
        centerness=F.binary_cross_entropy_with_logits(centerness, wanted_centerness, reduction="sum") / num_pos,
        mask=_mask_loss(features.mask_feats, flat, locations, assignments, targets, settings, hidden, permutation),
    )


def flat_outputs(levels: list[LevelOutputs]) -> FlatOutputs:
    """Level maps `(B, D, h, w)` -> `(B, L, D)`, P3 first."""
    parts = (torch.cat([x.flatten(2) for x in field], dim=2).transpose(1, 2) for field in zip(*levels, strict=True))
    cls_logits, distances, centerness, params = parts
    return FlatOutputs(cls_logits, distances, centerness.squeeze(2), params)


def centerness_targets(distances: Tensor) -> Tensor:
    """`sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))` of `(p, 4)` -> `(p,)`."""
    horizontal, vertical = distances[:, 0::2], distances[:, 1::2]
    ratio = (horizontal.amin(dim=1) / horizontal.amax(dim=1)) * (vertical.amin(dim=1) / vertical.amax(dim=1))
    return ratio.sqrt()


def giou_loss(distances: Tensor, wanted: Tensor) -> Tensor:
    """`1 - GIoU` of boxes around the same points, given by distances `(p, 4)` >= 0 to their sides: `(p,)`."""
    overlap_sides = torch.minimum(distances, wanted)
    hull_sides = torch.maximum(distances, wanted)
    overlap, hull = _area(overlap_sides), _area(hull_sides).clamp(min=GIOU_EPSILON)
    union = (_area(distances) + _area(wanted) - overlap).clamp(min=GIOU_EPSILON)
    return 1 - overlap / union + (hull - union) / hull


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """`1 - 2|p m| / (|p|^2 + |m|^2)` of `(p, h, w)` logits and masks: `(p,)`."""
    probabilities, masks = logits.sigmoid().flatten(1), masks.flatten(1).to(logits.dtype)
    both = (probabilities * masks).sum(dim=1)
    squares = probabilities.square().sum(dim=1) + DICE_EPSILON + masks.square().sum(dim=1) + DICE_EPSILON
    return 1 - 2 * both / squares


def _area(distances: Tensor) -> Tensor:
    left, top, right, bottom = distances.unbind(1)
    return (left + right) * (top + bottom)


def _one_hot(flat: FlatOutputs, assignments: Sequence[Assignment], targets: Sequence[ImageTargets]) -> Tensor:
    wanted = torch.zeros_like(flat.cls_logits)
    for i, (assignment, target) in enumerate(zip(assignments, targets, strict=True)):
        wanted[i, assignment.locations, target.labels[assignment.instances]] = 1
    return wanted


def _mask_loss(
    mask_feats: Tensor,
    flat: FlatOutputs,
    locations: Locations,
    assignments: Sequence[Assignment],
    targets: Sequence[ImageTargets],
    settings: LossSettings,
    hidden: int,
    permutation: Permutation,
) -> Tensor:
    """Dice over the positive points of all pictures that are kept under the caps."""
    total, count = mask_feats.sum() * 0, 0  # keeps the gradients' graph where nothing is positive
    for i, (assignment, target) in enumerate(zip(assignments, targets, strict=True)):
        kept = _kept(i, flat, assignment, settings, permutation)
        where, instances = assignment.locations[kept], assignment.instances[kept]
        count += len(where)
        if len(where) == 0:
            continue
        logits = dynamic_mask_head(
            mask_feats[i : i + 1],
            flat.params[i, where][None],
            locations.points[where][None],
            SOI_STRIDES * locations.strides[where][None],
            hidden,
        )
        logits = aligned_bilinear(logits, MASK_STRIDE // MASK_TARGET_STRIDE)[0]
        half = MASK_TARGET_STRIDE // 2
        masks = target.masks[:, half::MASK_TARGET_STRIDE, half::MASK_TARGET_STRIDE]
        total = total + dice_loss(logits, masks[instances]).sum()
    return total / max(count, 1)


def _kept(
    image: int, flat: FlatOutputs, assignment: Assignment, settings: LossSettings, permutation: Permutation
) -> Tensor:
    """Indices of a picture's positives whose masks are learnt."""
    positives = len(assignment.locations)
    everything = torch.arange(positives, device=assignment.locations.device)
    if settings.max_masks is not None and positives > settings.max_masks:
        return permutation(positives)[: settings.max_masks].to(everything.device)
    if settings.masks_per_image is None or positives == 0:
        return everything
    scores = flat.cls_logits[image, assignment.locations].sigmoid().amax(dim=1)
    quality = scores * flat.centerness[image, assignment.locations].sigmoid()
    instances = assignment.instances.unique()
    share = max(settings.masks_per_image // len(instances), 1)
    kept = []
    for instance in instances:
        own = everything[assignment.instances == instance]
        kept.append(own if len(own) <= share else own[quality[own].topk(share).indices])
    return torch.cat(kept)
