"""The training losses of CondInst, as mmdetection or AdelaiDet computes them; every weight is 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from condinst_deploy.contract import Family, check_family
from condinst_deploy.model.condinst import Features
from condinst_deploy.model.config import MASK_STRIDE, SOI_STRIDES
from condinst_deploy.model.head import LevelOutputs
from condinst_deploy.model.mask_head import dynamic_mask_head
from condinst_deploy.model.resample import aligned_bilinear
from condinst_deploy.model.targets import Assignment, ImageTargets, Locations, assign, locations_of
from condinst_deploy.support.validation import Limits, check_number

MASK_TARGET_STRIDE = 4
"""Stride at which masks are learnt."""

DICE_EPSILON = 5e-6
"""Added to each of the two sums of squares; AdelaiDet adds twice as much to both together, which is the same."""

GIOU_EPSILON = 1e-6


@dataclass(frozen=True)
class LossSettings:
    """Whose losses, and the cap on the positive points whose masks are learnt.

    There is one cap or the other: with `masks_per_image`, `max_masks` does not count, so that a recipe can choose it.
    AdelaiDet's GIoU loss has `(intersection + 1) / (union + 1)`, in strides, and its cap is for a process's
    whole batch instead of for an image; its own cap is 500.
    """

    max_masks: int | None = 300  # drawn at random; None: all
    masks_per_image: int | None = None  # instead: the best so many of an image, shared evenly over its instances
    family: Family = "mmdet"

    def __post_init__(self) -> None:
        """Check the family and the caps.

        Raises:
            ConfigError: the family is unknown, or a cap is no positive number.
        """
        check_family(self.family)
        for name in ("max_masks", "masks_per_image"):
            cap = getattr(self, name)
            if cap is not None:
                check_number(f"losses.{name}", cap, Limits(1, whole=True))

    @property
    def drawn(self) -> int | None:
        """How many masks are drawn at random, of an image or of AdelaiDet's batch; None: that cap does not count."""
        return self.max_masks if self.masks_per_image is None else None


class Losses(NamedTuple):
    """Scalars; their sum is what training lowers."""

    cls: Tensor
    box: Tensor
    centerness: Tensor
    mask: Tensor
    semantic: Tensor | None = None  # of a model with a semantic head

    @property
    def terms(self) -> dict[str, Tensor]:
        """Those that the model has, by name."""
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
        targets: one an image, masks of the padded batch's size.
        settings: family and cap.
        hidden: hidden channels of the dynamic mask head.
        average: mean of a number over the processes that train together; the mask loss's normaliser stays
            each process's own.
        permutation: draws the instances kept under the cap.

    References:
        Focal loss (alpha 0.25, gamma 2) over the number of positives; GIoU weighted by the centerness target over
        the sum of these; binary cross-entropy of centerness over the number of positives; dice at stride 4
        over the instances learnt; focal loss of the pixels' classes at stride 8 over the pixels of instances.
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
    semantic = features.semantic_logits
    return Losses(
        cls=sigmoid_focal_loss(flat.cls_logits, _one_hot(flat, assignments, targets), reduction="sum") / num_pos,
        box=(giou_loss(distances, wanted, settings.family) * wanted_centerness).sum() / weight_sum,
        centerness=F.binary_cross_entropy_with_logits(centerness, wanted_centerness, reduction="sum") / num_pos,
        mask=_mask_loss(features.mask_feats, flat, locations, assignments, targets, settings, hidden, permutation),
        semantic=None if semantic is None else semantic_loss(semantic, targets),
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


def semantic_loss(logits: Tensor, targets: Sequence[ImageTargets]) -> Tensor:
    """Focal loss of the pixels' classes over the number of pixels that belong to an instance, at least 1.

    Args:
        logits: `(B, C, H/8, W/8)`.
        targets: one an image; a pixel belongs to the smallest mask that covers it.
    """
    wanted = torch.stack([_pixel_classes(target, logits.shape[1]) for target in targets]).to(logits.dtype)
    total: Tensor = sigmoid_focal_loss(logits, wanted, reduction="sum")
    return total / wanted.sum().clamp(min=1)


def _pixel_classes(target: ImageTargets, num_classes: int) -> Tensor:
    """One-hot classes of an image's pixels at the mask features' stride: `(C, H/8, W/8)` bool, none outside."""
    masks = target.masks[:, MASK_STRIDE // 2 :: MASK_STRIDE, MASK_STRIDE // 2 :: MASK_STRIDE]
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
    """Dice over the positive points of all images that are kept under the caps."""
    total, count = mask_feats.sum() * 0, 0  # keeps the gradients' graph where nothing is positive
    chosen = _kept(flat, assignments, settings, permutation)
    for i, (assignment, target, kept) in enumerate(zip(assignments, targets, chosen, strict=True)):
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
    flat: FlatOutputs, assignments: Sequence[Assignment], settings: LossSettings, permutation: Permutation
) -> list[Tensor]:
    """Indices of each image's positives whose masks are learnt."""
    counts = [len(assignment.locations) for assignment in assignments]
    if settings.family == "adelaidet" and settings.drawn is not None and sum(counts) > settings.drawn:
        drawn = torch.zeros(sum(counts), dtype=torch.bool)
        drawn[permutation(len(drawn))[: settings.drawn]] = True
        return [part.nonzero().squeeze(1).to(flat.params.device) for part in drawn.split(counts)]
    return [_kept_of_one(i, flat, assignment, settings, permutation) for i, assignment in enumerate(assignments)]


def _kept_of_one(
    image: int, flat: FlatOutputs, assignment: Assignment, settings: LossSettings, permutation: Permutation
) -> Tensor:
    positives = len(assignment.locations)
    everything = torch.arange(positives, device=assignment.locations.device)
    per_image = settings.drawn if settings.family == "mmdet" else None
    if per_image is not None and positives > per_image:
        return permutation(positives)[:per_image].to(everything.device)
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
