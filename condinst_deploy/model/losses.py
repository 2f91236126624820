"""The training losses of CondInst, as mmdetection or AdelaiDet computes them; every weight is 1."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from condinst_deploy.contract import Family
from condinst_deploy.model.boxinst import pairwise_losses
from condinst_deploy.model.condinst import Features
from condinst_deploy.model.config import MASK_STRIDE, SOI_STRIDES
from condinst_deploy.model.head import LevelOutputs
from condinst_deploy.model.loss_plan import (
    MASK_TARGET_STRIDE,
    Draw,
    Normalisers,
    Part,
    Plan,
    centerness_targets,
    normalisers_of,
    plan_step,
    share_of,
    sums_of,
    unseeded_draw,
)
from condinst_deploy.model.loss_plan import LossSettings as LossSettings
from condinst_deploy.model.mask_head import dynamic_mask_head
from condinst_deploy.model.resample import aligned_bilinear
from condinst_deploy.model.targets import Assignment, ImageTargets, Locations

DICE_EPSILON = 5e-6
"""Added to each of the two sums of squares; AdelaiDet adds twice as much to both together, which is the same."""

GIOU_EPSILON = 1e-6


class Losses(NamedTuple):
    """Scalars; training minimises their sum."""

    cls: Tensor
    box: Tensor
    centerness: Tensor
    mask: Tensor  # BoxInst: its projection loss
    semantic: Tensor | None = None  # of a model with a semantic head
    pairwise: Tensor | None = None  # BoxInst

    @property
    def terms(self) -> dict[str, Tensor]:
        """Return the losses that the model has, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    @property
    def total(self) -> Tensor:
        """Their sum."""
        return torch.stack(list(self.terms.values())).sum()


class FlatOutputs(NamedTuple):
    """The head's outputs at all points of all levels."""

    cls_logits: Tensor  # (B, L, C)
    distances: Tensor  # (B, L, 4) in strides
    centerness: Tensor  # (B, L)
    params: Tensor  # (B, L, num_params)


def condinst_losses(
    features: Features,
    targets: Sequence[ImageTargets],
    settings: LossSettings,
    hidden: int = 8,
    average: Callable[[Tensor], Tensor] = lambda x: x,
    draw: Draw = unseeded_draw,
) -> Losses:
    """Losses of one batch that is a whole step of this process.

    For your own training loops and for the comparison with the references. `TrainingRun` can split a step into
    several parts; it calls the same functions itself.

    Args:
        features: the convolutional part's outputs, with gradients.
        targets: one an image, masks of the padded batch's size.
        settings: family, cap and normalisers.
        hidden: hidden channels of the dynamic mask head.
        average: mean of a tensor over the processes that train together.
        draw: random numbers that decide which masks are kept under the cap.
    """
    height, width = features.mask_feats.shape[2:]
    part = Part(targets, (height * MASK_STRIDE, width * MASK_STRIDE))
    (plan,) = plan_step([part], settings, draw)
    normalisers = normalisers_of(sums_of(plan, part, settings), settings, average)
    return losses_of(features, targets, plan, normalisers, LossRules(settings, hidden))


class LossRules(NamedTuple):
    """Settings of the losses, constant during a run."""

    settings: LossSettings
    hidden: int = 8  # hidden channels of the dynamic mask head


def losses_of(
    features: Features, targets: Sequence[ImageTargets], plan: Plan, normalisers: Normalisers, rules: LossRules
) -> Losses:
    """Losses of one part of a step.

    References:
        Focal loss (alpha 0.25, gamma 2) over the number of positives; GIoU weighted by the centerness target over
        the sum of these; binary cross-entropy of centerness over the number of positives; dice at stride 4
        over the instances learnt; focal loss of the pixels' classes at stride 8 over the pixels of instances.
        BoxInst: dice of the masks' projections on both axes instead, and its pairwise loss over the pairs.
    """
    flat, assignments = flat_outputs(features.levels), plan.assignments
    number = flat.centerness.dtype
    distances = torch.cat([flat.distances[i, a.locations] for i, a in enumerate(assignments)])
    wanted = torch.cat([a.distances for a in assignments])
    centerness = torch.cat([flat.centerness[i, a.locations] for i, a in enumerate(assignments)])
    wanted_centerness = centerness_targets(wanted).to(number)
    positives, weight_sum, masks, pixels, pairs = (x.to(number) for x in normalisers)
    semantic = features.semantic_logits
    mask, pairwise = _mask_losses(features.mask_feats, flat, targets, plan, rules)
    boxes = (giou_loss(distances, wanted, rules.settings.family) * wanted_centerness).sum()
    return Losses(
        cls=sigmoid_focal_loss(flat.cls_logits, _one_hot(flat, assignments, targets), reduction="sum") / positives,
        box=boxes / weight_sum,
        centerness=F.binary_cross_entropy_with_logits(centerness, wanted_centerness, reduction="sum") / positives,
        mask=mask / masks,
        semantic=None if semantic is None else semantic_loss(semantic, targets) / pixels,
        pairwise=None if plan.similar is None else pairwise * plan.pairwise_weight / pairs,
    )


def flat_outputs(levels: list[LevelOutputs]) -> FlatOutputs:
    """Level maps `(B, D, h, w)` -> `(B, L, D)`, P3 first."""
    parts = (torch.cat([x.flatten(2) for x in field], dim=2).transpose(1, 2) for field in zip(*levels, strict=True))
    cls_logits, distances, centerness, params = parts
    return FlatOutputs(cls_logits, distances, centerness.squeeze(2), params)


def giou_loss(distances: Tensor, wanted: Tensor, family: Family = "mmdet") -> Tensor:
    """`1 - GIoU` of boxes around the same points, given by distances `(p, 4)` >= 0 to their sides: `(p,)`."""
    smoothing = 1 if family == "adelaidet" else 0
    overlap_sides = torch.minimum(distances, wanted)
    hull_sides = torch.maximum(distances, wanted)
    overlap, hull = _area(overlap_sides), _area(hull_sides).clamp(min=GIOU_EPSILON)
    union = (_area(distances) + _area(wanted) - overlap).clamp(min=GIOU_EPSILON)
    return 1 - (overlap + smoothing) / (union + smoothing) + (hull - union) / hull


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """`1 - 2|p m| / (|p|^2 + |m|^2)` of `(p, h, w)` logits and masks: `(p,)`."""
    probabilities, masks = logits.sigmoid().flatten(1), masks.flatten(1).to(logits.dtype)
    both = (probabilities * masks).sum(dim=1)
    squares = probabilities.square().sum(dim=1) + DICE_EPSILON + masks.square().sum(dim=1) + DICE_EPSILON
    return 1 - 2 * both / squares


def projection_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """BoxInst's: dice of the largest values of columns and of rows, of `(p, h, w)` logits and masks: `(p,)`."""
    return sum((dice_loss(logits.amax(dim=axis), masks.amax(dim=axis)) for axis in (1, 2)), logits.new_zeros(()))


def semantic_loss(logits: Tensor, targets: Sequence[ImageTargets]) -> Tensor:
    """Focal loss of the pixels' classes, summed.

    Args:
        logits: `(B, C, H/8, W/8)`.
        targets: one an image; a pixel belongs to the smallest mask that covers it.
    """
    wanted = torch.stack([_pixel_classes(target, logits.shape[1]) for target in targets]).to(logits.dtype)
    total: Tensor = sigmoid_focal_loss(logits, wanted, reduction="sum")
    return total


def _pixel_classes(target: ImageTargets, num_classes: int) -> Tensor:
    """One-hot classes of an image's pixels at the mask features' stride: `(C, H/8, W/8)` bool, none outside."""
    masks = target.masks_at(MASK_STRIDE)
    classes = masks.new_zeros((num_classes, *masks.shape[1:]))
    if len(masks) == 0:
        return classes
    areas = target.masks.sum(dim=(1, 2)).to(torch.float32)
    smallest, instance = torch.where(masks, areas[:, None, None], torch.inf).min(dim=0)  # (H/8, W/8)
    return classes.scatter(0, target.labels[instance][None], smallest.isfinite()[None])


def _area(distances: Tensor) -> Tensor:
    left, top, right, bottom = distances.unbind(1)
    return (left + right) * (top + bottom)


def _one_hot(flat: FlatOutputs, assignments: Sequence[Assignment], targets: Sequence[ImageTargets]) -> Tensor:
    wanted = torch.zeros_like(flat.cls_logits)
    for i, (assignment, target) in enumerate(zip(assignments, targets, strict=True)):
        wanted[i, assignment.locations, target.labels[assignment.instances]] = 1
    return wanted


def _mask_losses(
    mask_feats: Tensor, flat: FlatOutputs, targets: Sequence[ImageTargets], plan: Plan, rules: LossRules
) -> tuple[Tensor, Tensor]:
    """Dice, or BoxInst's two losses, of the positive points of all images that are kept under the caps, summed."""
    # the sums of nothing keep controller and mask branch in the graph where nothing is positive
    total = mask_feats[:, :0].sum() + flat.params[:, :0].sum()
    pairwise = total
    for i, (assignment, target) in enumerate(zip(plan.assignments, targets, strict=True)):
        kept = _best(i, flat, assignment, rules.settings) if plan.kept is None else plan.kept[i]
        where, instances = assignment.locations[kept], assignment.instances[kept]
        if len(where) == 0:
            continue
        logits = _mask_logits(mask_feats[i : i + 1], flat.params[i, where], plan.locations, where, rules.hidden)
        masks = target.masks_at(MASK_TARGET_STRIDE)
        if plan.similar is None:
            total = total + dice_loss(logits, masks[instances]).sum()
            continue
        total = total + projection_loss(logits, masks[instances]).sum()
        learnt = plan.similar[i][None] & masks[instances][:, None]  # (p, 8, H/4, W/4)
        pairwise = pairwise + (pairwise_losses(logits, rules.settings.pairwise_dilation) * learnt).sum()
    return total, pairwise


def _mask_logits(mask_feats: Tensor, params: Tensor, locations: Locations, where: Tensor, hidden: int) -> Tensor:
    """Logits `(p, H/4, W/4)` of points of one image: features `(1, C, H/8, W/8)`, parameters `(p, num_params)`."""
    soi = SOI_STRIDES * locations.strides[where][None]
    logits = dynamic_mask_head(mask_feats, params[None], locations.points[where][None], soi, hidden)
    return aligned_bilinear(logits, MASK_STRIDE // MASK_TARGET_STRIDE)[0]


def _best(image: int, flat: FlatOutputs, assignment: Assignment, settings: LossSettings) -> Tensor:
    """Indices of the positives that are predicted best, as many for each instance of the image."""
    everything = torch.arange(len(assignment.locations), device=assignment.locations.device)
    if settings.masks_per_image is None or len(everything) == 0:
        return everything
    scores = flat.cls_logits[image, assignment.locations].sigmoid().amax(dim=1)
    quality = scores * flat.centerness[image, assignment.locations].sigmoid()
    share = share_of(assignment, settings.masks_per_image)
    kept = []
    for instance in assignment.instances.unique():
        own = everything[assignment.instances == instance]
        kept.append(own if len(own) <= share else own[quality[own].topk(share).indices])
    return torch.cat(kept)
