"""Comparison of two lists of results of the same data set: in total, by size, and the images that differ most."""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from condinst_deploy.evaluation.agreement import (
    Agreement,
    Instances,
    Pairs,
    agreement_of,
    instances_from_coco,
    matched_pairs,
    merged,
    paired_box_ious,
)
from condinst_deploy.evaluation.coco_metrics import Entry

SIZES = ("small", "medium", "large")
SIZE_BOUNDS = (32**2, 96**2)
"""COCO's bounds of the sizes, in pixels of the mask's area."""

IOU_BINS = (0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 1.0)
"""Lower ends of the classes that mask IoUs are counted in; below the first is one more."""

WORST = 8
"""Number of images that a report shows."""

RULE = (
    "Two detections match when they have the same label and a box IoU of at least 0.5; pairs are made greedily by"
    " falling IoU. Matched share: detections of both sides that have a partner. Sizes are those of the reference's"
    " masks, with COCO's bounds. An image's difference: the scores of all detections without a partner, plus, for"
    " every pair, score x (1 - box IoU), score x (1 - mask IoU) where both sides have masks, and the difference of the"
    " scores."
)
"""Explanations of the metrics."""


@dataclass(frozen=True, eq=False)
class ImageComparison:
    """Two sides' detections of one image."""

    image_id: int
    pairs: Pairs
    whole: Agreement
    by_size: dict[str, Agreement]
    difference: float  # see RULE


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two sides' detections of a data set."""

    whole: Agreement
    by_size: dict[str, Agreement]
    worst: tuple[ImageComparison, ...]  # those that differ, most first


def compare(
    reference: Mapping[int, Sequence[Entry]],
    other: Mapping[int, Sequence[Entry]],
    image_ids: Iterable[int],
    on_image: Callable[[], None] = lambda: None,
) -> Comparison:
    """Compare results image by image.

    Args:
        reference: entries of a COCO results file by image; images without detections may be missing.
        other: the same of the other side.
        image_ids: all images.
        on_image: called after each.
    """
    images = []
    for image_id in image_ids:
        images.append(_compared(image_id, reference.get(image_id, ()), other.get(image_id, ())))
        on_image()
    worst = heapq.nlargest(WORST, (p for p in images if p.difference > 0), key=lambda p: p.difference)
    by_size = {size: merged(image.by_size[size] for image in images) for size in SIZES}
    return Comparison(merged(image.whole for image in images), by_size, tuple(worst))


def agreement_metrics(agreement: Agreement) -> dict[str, Any]:
    """Values of an agreement for a report; None if nothing matched, or if a side has no masks."""
    masks = agreement.mask_ious[~np.isnan(agreement.mask_ious)]
    return {
        "reference": agreement.reference_count,
        "other": agreement.other_count,
        "matched": agreement.matched,
        "matched_share": agreement.matched_share,
        "box_error_px": _spread(agreement.box_errors, (50, 99, 100)),
        "score_error": _spread(agreement.score_errors, (50, 99, 100)),
        "mask_iou": _spread(masks, (0, 1, 50)),
        "mask_iou_mean": float(masks.mean()) if len(masks) else None,
        "mask_iou_counts": iou_counts(masks),
    }


def iou_counts(ious: npt.NDArray[np.float64]) -> list[int]:
    """Return the number of IoUs below `IOU_BINS[0]`, from there to below `IOU_BINS[1]`, ..., at 1."""
    classes = np.searchsorted(IOU_BINS, ious[~np.isnan(ious)], side="right")
    counts: list[int] = np.bincount(classes, minlength=len(IOU_BINS) + 1).tolist()
    return counts


def _compared(image_id: int, reference: Sequence[Entry], other: Sequence[Entry]) -> ImageComparison:
    left, right = instances_from_coco(reference), instances_from_coco(other)
    pairs = matched_pairs(left, right)
    whole = agreement_of(left, right, pairs)
    alone = np.delete(left.scores, pairs[:, 0]).sum() + np.delete(right.scores, pairs[:, 1]).sum()
    missed = 1 - paired_box_ious(left, right, pairs) + np.nan_to_num(1 - whole.mask_ious)
    unlike = left.scores[pairs[:, 0]] * missed + whole.score_errors
    return ImageComparison(image_id, pairs, whole, _by_size(left, right, pairs, whole), float(alone + unlike.sum()))


def _by_size(reference: Instances, other: Instances, pairs: Pairs, whole: Agreement) -> dict[str, Agreement]:
    left, right = (np.searchsorted(SIZE_BOUNDS, side.areas, side="right") for side in (reference, other))
    of_pair = left[pairs[:, 0]]
    right[pairs[:, 1]] = of_pair  # a pair on a bound counts once
    return {
        size: Agreement(
            int((left == k).sum()),
            int((right == k).sum()),
            whole.box_errors[of_pair == k],
            whole.score_errors[of_pair == k],
            whole.mask_ious[of_pair == k],
            whole.mask_pixels[of_pair == k],
        )
        for k, size in enumerate(SIZES)
    }


def _spread(values: npt.NDArray[np.float64], percentiles: Sequence[int]) -> dict[str, float | None]:
    names = {0: "min", 50: "median", 100: "max"}
    found = np.percentile(values, percentiles).tolist() if len(values) else [None] * len(percentiles)
    return {names.get(p, f"p{p}"): value for p, value in zip(percentiles, found, strict=True)}
