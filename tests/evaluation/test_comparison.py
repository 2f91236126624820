"""Agreement over a data set, worked out by hand on rectangles."""

from typing import Any

import numpy as np
import pytest

from condinst_deploy.evaluation.agreement import MIN_IOU
from condinst_deploy.evaluation.comparison import (
    IOU_BINS,
    RULE,
    SIZES,
    WORST,
    agreement_metrics,
    compare,
    iou_counts,
)
from tests.support.small_coco import Rectangle, result

SMALL: Rectangle = (0, 0, 20, 20)
MEDIUM: Rectangle = (50, 50, 50, 40)
LARGE: Rectangle = (60, 60, 120, 100)


def found(score: float, box: Rectangle, mask: Rectangle | None = None, category: int = 1) -> dict[str, Any]:
    return result(1, category, score, box, mask or box)


def test_equal_results_agree_and_no_image_is_shown() -> None:
    sides = {1: [found(0.9, SMALL), found(0.8, LARGE)], 2: [found(0.5, MEDIUM)]}
    comparison = compare(sides, sides, (1, 2, 3))
    assert comparison.whole.same_set
    assert comparison.worst == ()
    metrics = agreement_metrics(comparison.whole)
    assert (metrics["matched"], metrics["matched_share"]) == (3, 1.0)
    assert metrics["box_error_px"] == {"median": 0, "p99": 0, "max": 0}
    assert metrics["mask_iou"] == {"min": 1, "p1": 1, "median": 1}
    assert metrics["mask_iou_counts"] == [0] * len(IOU_BINS) + [3]


def test_metrics_of_a_pair_and_of_what_has_no_partner() -> None:
    reference = {1: [found(0.9, MEDIUM), found(0.6, SMALL)]}
    # moved by one pixel: boxes 49*40 / 51*40; the mask has 50*30 of 50*40
    other = {1: [found(0.7, (51, 50, 50, 40), (50, 50, 50, 30)), found(0.3, LARGE)]}
    comparison = compare(reference, other, (1,))
    metrics = agreement_metrics(comparison.whole)
    assert (metrics["reference"], metrics["other"], metrics["matched"]) == (2, 2, 1)
    assert metrics["matched_share"] == 0.5  # two of four detections
    assert metrics["box_error_px"]["max"] == 1
    assert metrics["score_error"]["max"] == pytest.approx(0.2)
    assert metrics["mask_iou"]["median"] == 0.75
    (image,) = comparison.worst
    # alone: 0.6 and 0.3; the pair: 0.9 * (1 - box IoU), 0.9 * (1 - mask IoU) and the scores
    assert image.difference == pytest.approx(0.6 + 0.3 + 0.9 * (1 - 49 / 51) + 0.9 * (1 - 0.75) + 0.2)


def test_moved_boxes_and_other_scores_are_differences_without_masks_too() -> None:
    reference = [{k: v for k, v in found(0.8, MEDIUM).items() if k != "segmentation"}]
    moved = [reference[0] | {"bbox": [52.0, 50.0, 50.0, 40.0]}]
    halved = [reference[0] | {"score": 0.4}]
    (image,) = compare({1: reference}, {1: moved}, (1,)).worst
    assert image.difference == pytest.approx(0.8 * (1 - 48 / 52))
    (image,) = compare({1: reference}, {1: halved}, (1,)).worst
    assert image.difference == pytest.approx(0.4)
    assert compare({1: reference}, {1: reference}, (1,)).worst == ()


def test_a_pair_counts_by_the_references_size() -> None:
    # 32 * 32 pixels are medium, one row less is small
    reference = {1: [found(0.9, (0, 0, 32, 31)), found(0.8, (50, 50, 32, 32)), found(0.7, LARGE)]}
    other = {1: [found(0.9, (0, 0, 32, 32)), found(0.8, (50, 50, 32, 31)), found(0.2, SMALL)]}
    by_size = compare(reference, other, (1,)).by_size
    counts = {size: (by_size[size].reference_count, by_size[size].other_count, by_size[size].matched) for size in SIZES}
    assert counts == {"small": (1, 2, 1), "medium": (1, 1, 1), "large": (1, 0, 0)}


def test_labels_and_boxes_decide_what_matches() -> None:
    reference = {1: [found(0.9, MEDIUM, category=1)]}
    assert compare(reference, {1: [found(0.9, MEDIUM, category=2)]}, (1,)).whole.matched == 0
    half = (50, 50, 50, 20)  # exactly half of it
    assert MIN_IOU == 0.5
    assert "box IoU of at least 0.5" in RULE
    assert compare(reference, {1: [found(0.9, half)]}, (1,)).whole.matched == 1
    assert compare(reference, {1: [found(0.9, (50, 50, 50, 19))]}, (1,)).whole.matched == 0


def test_the_worst_images_come_first_and_are_limited() -> None:
    reference = {i: [found(i / 100, SMALL)] for i in range(1, 20)}
    comparison = compare(reference, {}, range(25))
    assert [image.image_id for image in comparison.worst] == list(range(19, 19 - WORST, -1))
    assert comparison.whole.reference_count == 19


def test_boxes_alone_have_no_metrics_of_masks() -> None:
    entries = {1: [{k: v for k, v in found(0.9, MEDIUM).items() if k != "segmentation"}]}
    comparison = compare(entries, {1: [found(0.9, MEDIUM)]}, (1,))
    metrics = agreement_metrics(comparison.whole)
    assert (metrics["matched"], metrics["mask_iou_mean"]) == (1, None)
    assert metrics["mask_iou"] == {"min": None, "p1": None, "median": None}
    assert sum(metrics["mask_iou_counts"]) == 0
    assert comparison.by_size["medium"].matched == 1


def test_nothing_on_both_sides_agrees() -> None:
    comparison = compare({}, {}, (1, 2))
    assert comparison.whole.matched_share == 1
    assert agreement_metrics(comparison.whole)["box_error_px"]["max"] is None


def test_every_iou_is_counted_in_its_class() -> None:
    ious = np.array([0.0, 0.49, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999, 0.99995, 1.0, np.nan])
    assert iou_counts(ious) == [2, 1, 1, 1, 1, 1, 2, 1]


def test_progress_is_reported_once_an_image() -> None:
    calls: list[int] = []
    compare({}, {}, (1, 2, 3), lambda: calls.append(1))
    assert len(calls) == 3
