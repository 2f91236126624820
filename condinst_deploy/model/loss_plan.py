"""Plan of a training step: what it learns, decided before the network runs by targets, sizes and random draws.

Normalisers are sums over all images of a step. They must be known before the first backward pass of a step that is
split into parts, and each process must know the others'. So they are computed here, without the network's outputs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from condinst_deploy.contract import Family, check_family
from condinst_deploy.model.boxinst import ColourRules, pairs_in_all
from condinst_deploy.model.config import MASK_STRIDE
from condinst_deploy.model.targets import Assignment, ImageTargets, Locations, assign, locations_at
from condinst_deploy.support.option_types import check_types
from condinst_deploy.support.validation import Limits, check_choice, check_number

NormaliserKind = Literal["reference", "global"]
LossKind = Literal["condinst", "boxinst"]

MASK_TARGET_STRIDE = 4
"""Stride at which masks are learnt."""


@dataclass(frozen=True)
class LossSettings:
    """Family of the losses, and the limit on positive points whose masks are learnt.

    There is one cap or the other: with `masks_per_image`, `max_masks` does not count, so that a recipe can choose it.
    AdelaiDet's GIoU loss has `(intersection + 1) / (union + 1)`, in strides, and its cap is for a process's
    whole batch instead of for an image; its own cap is 500.
    """

    max_masks: int | None = 300  # drawn at random; None: all
    masks_per_image: int | None = None  # instead: most masks of an image, shared evenly over its instances
    family: Family = "mmdet"
    normalisers: NormaliserKind = "reference"  # "global": also the mask and semantic losses' are means over processes
    kind: LossKind = "condinst"  # "boxinst": masks are learnt from boxes and colours
    pairwise_warmup: int = 10_000  # BoxInst: iterations until its pairwise loss has its full weight
    pairwise_dilation: int = 2  # BoxInst: distance of neighbours, in pixels of masks
    color_threshold: float = 0.3  # BoxInst: least similarity of pixels that have the same label
    bottom_pixels: int = 10  # BoxInst: rows at an image's bottom that are ignored

    def __post_init__(self) -> None:
        """Check the family, the caps and the normalisers.

        Raises:
            ConfigError: the family or the kind of normalisers is unknown, or a cap is no positive number.
        """
        check_types(self, "losses.")
        check_family(self.family)
        check_choice("losses.normalisers", self.normalisers, NormaliserKind)
        check_choice("losses.kind", self.kind, LossKind)
        check_number("losses.pairwise_warmup", self.pairwise_warmup, Limits(0, whole=True))
        check_number("losses.pairwise_dilation", self.pairwise_dilation, Limits(1, 64, whole=True))
        check_number("losses.color_threshold", self.color_threshold, Limits(0, 1))
        check_number("losses.bottom_pixels", self.bottom_pixels, Limits(0, 1_000, whole=True))
        for name in ("max_masks", "masks_per_image"):
            cap = getattr(self, name)
            if cap is not None:
                check_number(f"losses.{name}", cap, Limits(1, whole=True))

    @property
    def colours(self) -> ColourRules | None:
        """Which neighbours have the same colour, where masks are learnt from boxes; else None."""
        if self.kind != "boxinst":
            return None
        return ColourRules(MASK_TARGET_STRIDE, self.pairwise_dilation, self.color_threshold, self.bottom_pixels)

    def pairwise_weight(self, iteration: int) -> float:
        """Weight of BoxInst's pairwise loss at an iteration, counted from 0; AdelaiDet counts from 1."""
        if self.pairwise_warmup == 0:
            return 1.0
        return min((iteration + (self.family == "adelaidet")) / self.pairwise_warmup, 1.0)

    @property
    def drawn(self) -> int | None:
        """Return how many masks are drawn at random, of an image or of AdelaiDet's batch; None if there is no cap."""
        return self.max_masks if self.masks_per_image is None else None


Draw = Callable[[int, int], Tensor]
"""Image of the step, `n` -> `n` random numbers `(n,)`; the positives with the smallest are kept under the cap."""


def unseeded_draw(_image: int, n: int) -> Tensor:
    """Numbers of PyTorch's global generator."""
    return torch.rand(n, dtype=torch.float64)


class Part(NamedTuple):
    """Targets of images that run through the network together."""

    targets: Sequence[ImageTargets]  # B
    size: tuple[int, int]  # padded height and width
    similar: Tensor | None = None  # (B, 8, H/4, W/4) bool, where masks are learnt from boxes: `similar_neighbours`


class Plan(NamedTuple):
    """Plan of one part of a step."""

    locations: Locations
    assignments: tuple[Assignment, ...]  # B
    kept: tuple[Tensor, ...] | None  # B, indices of the positives whose masks are learnt; None: the best are
    similar: Tensor | None = None  # of `Part`
    pairwise_weight: float = 1.0  # of BoxInst's pairwise loss at this iteration


class Normalisers(NamedTuple):
    """Divisors of the losses, scalars above 0."""

    positives: Tensor  # class and centerness losses
    centerness: Tensor  # box loss: sum of the centerness targets
    masks: Tensor  # mask loss: masks learnt
    pixels: Tensor  # semantic loss: pixels of instances
    pairs: Tensor  # BoxInst's pairwise loss: pairs of the masks learnt


def plan_step(
    parts: Sequence[Part], settings: LossSettings, draw: Draw = unseeded_draw, iteration: int = 0
) -> list[Plan]:
    """Choose what each part of a step learns; AdelaiDet's cap holds for all parts together."""
    weight = settings.pairwise_weight(iteration)
    chosen = zip(_chosen(parts, settings, draw), parts, strict=True)
    return [plan._replace(similar=part.similar, pairwise_weight=weight) for plan, part in chosen]


def _chosen(parts: Sequence[Part], settings: LossSettings, draw: Draw) -> list[Plan]:
    locations = [locations_at(*part.size, part.targets[0].boxes.device) for part in parts]
    assignments = [
        tuple(assign(at, target) for target in part.targets) for at, part in zip(locations, parts, strict=True)
    ]
    if settings.masks_per_image is not None:
        return [Plan(at, own, None) for at, own in zip(locations, assignments, strict=True)]
    kept = iter(_drawn([a for own in assignments for a in own], settings, draw))
    return [Plan(at, own, tuple(next(kept) for _ in own)) for at, own in zip(locations, assignments, strict=True)]


def sums_of(plan: Plan, part: Part, settings: LossSettings) -> Tensor:
    """`(5,)` float64: positives, centerness targets, masks, pixels of instances, pairs. Sums of parts add up."""
    positives = sum(len(a.locations) for a in plan.assignments)
    distances = torch.cat([a.distances for a in plan.assignments])
    pixels = [target.masks_at(MASK_STRIDE).any(dim=0).sum() for target in part.targets if len(target.masks)]
    masks = (
        sum(_best_count(a, settings.masks_per_image) for a in plan.assignments)
        if settings.masks_per_image is not None
        else sum(len(kept) for kept in plan.kept or ())
    )
    centerness = centerness_targets(distances).sum(dtype=torch.float64)
    counts = centerness.new_tensor([positives, 0, masks, 0, 0])
    counts[1] = centerness
    counts[3] = sum(pixels)
    if part.similar is not None:
        counts[4] = _pairs(plan, part, part.similar, settings)
    return counts


def _pairs(plan: Plan, part: Part, similar: Tensor, settings: LossSettings) -> Tensor:
    """Pairs of all masks that a part learns."""
    masks = [target.masks_at(MASK_TARGET_STRIDE) for target in part.targets]
    counts = []
    for i, (assignment, target) in enumerate(zip(plan.assignments, part.targets, strict=True)):
        instances = assignment.instances if plan.kept is None else assignment.instances[plan.kept[i]]
        count = instances.bincount(minlength=len(target.boxes))
        if settings.masks_per_image is not None:
            count = count.clamp(max=share_of(assignment, settings.masks_per_image))
        counts.append(count)
    return pairs_in_all(similar, masks, counts, of_each=settings.family == "mmdet")


def normalisers_of(sums: Tensor, settings: LossSettings, average: Callable[[Tensor], Tensor]) -> Normalisers:
    """Divisors from the sums `(5,)` of a process's whole step.

    In both references the mask loss and the semantic loss are divided by each process's own number; the others are
    divided by means over the processes.

    Args:
        sums: of all parts.
        settings: whether all divisors are means over the processes.
        average: mean of a tensor over the processes that train together.
    """
    means = average(sums)
    own = means if settings.normalisers == "global" else sums
    masks, pixels, pairs = (x.clamp(min=1) for x in own[2:])
    return Normalisers(means[0].clamp(min=1), means[1].clamp(min=1e-6), masks, pixels, pairs)


def centerness_targets(distances: Tensor) -> Tensor:
    """`sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))` of `(p, 4)` -> `(p,)`."""
    horizontal, vertical = distances[:, 0::2], distances[:, 1::2]
    ratio = (horizontal.amin(dim=1) / horizontal.amax(dim=1)) * (vertical.amin(dim=1) / vertical.amax(dim=1))
    return ratio.sqrt()


def share_of(assignment: Assignment, masks_per_image: int) -> int:
    """Return the most masks that each instance of an image learns, if the best ones are taken."""
    return max(masks_per_image // max(len(assignment.instances.unique()), 1), 1)


def _best_count(assignment: Assignment, masks_per_image: int) -> int:
    """Return the number of positives that are kept, if the best ones are taken."""
    counts = assignment.instances.unique(return_counts=True)[1]
    return int(counts.clamp(max=share_of(assignment, masks_per_image)).sum())


def _drawn(assignments: Sequence[Assignment], settings: LossSettings, draw: Draw) -> list[Tensor]:
    """Indices of each image's positives that are kept under the cap on drawn masks."""
    counts = [len(a.locations) for a in assignments]
    cap, of_all = settings.drawn, settings.family == "adelaidet"
    if cap is not None and of_all and sum(counts) > cap:
        numbers = torch.cat([draw(i, n) for i, n in enumerate(counts)])
        chosen = torch.zeros(len(numbers), dtype=torch.bool)
        chosen[numbers.argsort(stable=True)[:cap]] = True
        kept = [own.nonzero().squeeze(1) for own in chosen.split(counts)]
    else:
        kept = [
            draw(i, n).argsort(stable=True)[:cap] if cap is not None and not of_all and n > cap else torch.arange(n)
            for i, n in enumerate(counts)
        ]
    return [own.to(a.locations.device) for own, a in zip(kept, assignments, strict=True)]
