"""Pairing and metrics of two sets of detections."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.evaluation.agreement import Agreement, Tolerance, agreement, box_ious, merged
from condinst_deploy.masks import Masks

Box = tuple[float, float, float, float]

SIZE = (40, 50)
EXACT = Tolerance(boxes=0, scores=0, mask_iou=1)


def detections(
    boxes: Sequence[Box],
    labels: Sequence[int] | None = None,
    scores: Sequence[float] | None = None,
    masks: Sequence[Box] | None = None,
) -> InstanceDetections:
    """Instances whose masks are rectangles, their boxes' own unless others are given."""
    n = len(boxes)
    dense = np.zeros((n, *SIZE), dtype=np.bool_)
    for mask, (x1, y1, x2, y2) in zip(dense, boxes if masks is None else masks, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = True
    return InstanceDetections(
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.array([0.5] * n if scores is None else scores, dtype=np.float32),
        labels=np.array([0] * n if labels is None else labels, dtype=np.int64),
        masks=Masks.from_dense(dense),
        class_names=("a", "b", "c"),
        category_ids=(1, 2, 3),
    )


def crowd(count: int, seed: int = 0) -> InstanceDetections:
    rng = np.random.default_rng(seed)
    corners, sides = rng.uniform(0, 25, (count, 2)), rng.uniform(3, 15, (count, 2))
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(corners, sides, strict=True)]
    return detections(boxes, rng.integers(0, 3, count).tolist(), rng.uniform(0, 1, count).tolist())


A: Box = (0, 0, 10, 10)
B: Box = (20, 20, 30, 36)


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_equal_sets_agree_exactly(count: int) -> None:
    result = agreement(crowd(count), crowd(count))
    assert result.matched == result.reference_count == result.other_count == count
    assert result.same_set
    assert result.within(EXACT)
    assert result.box_errors.tolist() == result.score_errors.tolist() == [0] * count
    assert result.mask_ious.tolist() == [1] * count


@pytest.mark.parametrize("seed", range(5))
def test_order_does_not_matter(seed: int) -> None:
    whole = crowd(30)
    shuffled = np.random.default_rng(seed).permutation(30)
    assert agreement(whole, whole[shuffled]).within(EXACT)
    assert agreement(whole[shuffled], whole).within(EXACT)


def test_metrics_follow_the_pairs_and_not_the_places() -> None:
    reference = detections([A, B], scores=[0.5, 0.25])
    other = detections([B, (0, 1, 10, 10)], scores=[0.5, 0.375])
    result = agreement(reference, other)
    assert result.box_errors.tolist() == [1, 0]
    assert result.score_errors.tolist() == [0.125, 0.25]
    assert result.mask_ious.tolist() == [pytest.approx(0.9), 1]


def test_box_error_is_that_of_the_worst_coordinate() -> None:
    for i, shift in enumerate((0.25, -0.5, 1.0, -2.0)):
        moved = list(B)
        moved[i] += shift
        other = detections([(moved[0], moved[1], moved[2], moved[3])], masks=[B])
        assert agreement(detections([B]), other).box_errors.tolist() == [abs(shift)]


def test_another_label_is_another_instance() -> None:
    result = agreement(detections([A, B], labels=[0, 1]), detections([A, B], labels=[0, 2]))
    assert result.matched == 1
    assert not result.same_set
    assert not result.within(Tolerance(boxes=1e9, scores=1, mask_iou=0))


# moved by s, two boxes of width 10 have IoU (10 - s) / (10 + s)
@pytest.mark.parametrize(("shift", "matched"), [(0.5, 1), (3.3, 1), (3.4, 0), (10, 0), (30, 0)])
def test_boxes_match_from_half_their_union_on(shift: float, matched: int) -> None:
    result = agreement(detections([A]), detections([(shift, 0, 10 + shift, 10)]))
    assert result.matched == matched
    assert result.same_set == bool(matched)


def test_half_the_union_itself_matches() -> None:
    assert agreement(detections([A]), detections([(0, 0, 10, 5)])).matched == 1
    assert agreement(detections([A]), detections([(0, 0, 10, 5)]), min_iou=0.51).matched == 0


def test_duplicate_stays_without_a_partner() -> None:
    for result, counts in (
        (agreement(detections([A, A]), detections([A])), (2, 1)),
        (agreement(detections([A]), detections([A, A, A])), (1, 3)),
    ):
        assert (result.reference_count, result.other_count) == counts
        assert result.matched == 1
        assert not result.same_set
        assert not result.within(Tolerance(boxes=1e9, scores=1, mask_iou=0))


def test_duplicates_on_both_sides_agree() -> None:
    assert agreement(detections([A, A, B]), detections([A, B, A])).within(EXACT)


def test_nearest_boxes_are_paired_first() -> None:
    near, nearer = (1.0, 0.0, 11.0, 10.0), (0.5, 0.0, 10.5, 10.0)
    for others in ([near, nearer], [nearer, near]):
        result = agreement(detections([A]), detections(others))
        assert result.box_errors.tolist() == [0.5]
        result = agreement(detections(others), detections([A]))
        assert result.box_errors.tolist() == [0.5]


@pytest.mark.parametrize(("reference", "other"), [(0, 1), (1, 0), (0, 3), (3, 0)])
def test_nothing_agrees_with_an_empty_side(reference: int, other: int) -> None:
    result = agreement(crowd(reference), crowd(other))
    assert (result.reference_count, result.other_count, result.matched) == (reference, other, 0)
    assert not result.same_set
    assert not result.within(Tolerance(boxes=1e9, scores=1, mask_iou=0))


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 5, 9, 5), (5, 5, 5, 5)], ids=str)
def test_box_without_an_area_agrees_with_itself(box: Box) -> None:
    assert agreement(detections([box]), detections([box])).within(EXACT)


@pytest.mark.parametrize(
    ("left", "right", "iou"),
    [
        ((0, 0, 0, 0), (0, 0, 0, 0), 1),
        ((0, 0, 0, 0), (0, 0, 4, 4), 0),
        ((0, 0, 4, 4), (0, 0, 0, 0), 0),
        ((0, 0, 4, 4), (4, 4, 8, 8), 0),
        ((0, 0, 4, 4), (0, 0, 4, 2), 0.5),
        ((0, 0, 4, 4), (2, 0, 6, 4), 1 / 3),
        ((0, 0, 50, 40), (0, 0, 50, 40), 1),
    ],
)
def test_mask_iou_and_empty_masks(left: Box, right: Box, iou: float) -> None:
    result = agreement(detections([A], masks=[left]), detections([A], masks=[right]))
    assert result.mask_ious.tolist() == [pytest.approx(iou)]


def test_mask_ious_are_those_of_dense_masks() -> None:
    reference, other = crowd(20), crowd(20, seed=1)
    other = replace(other, boxes=reference.boxes, labels=reference.labels)
    a, b = np.asarray(reference.masks), np.asarray(other.masks)
    expected = (a & b).sum(axis=(1, 2)) / (a | b).sum(axis=(1, 2))
    result = agreement(reference, other)
    np.testing.assert_allclose(result.mask_ious, expected, rtol=1e-12)
    np.testing.assert_array_equal(result.mask_pixels, (a ^ b).sum(axis=(1, 2)))


@pytest.mark.parametrize(
    ("tolerance", "within"),
    [
        (Tolerance(boxes=0.5, scores=0.25, mask_iou=0.5), True),
        (Tolerance(boxes=0.49, scores=0.25, mask_iou=0.5), False),
        (Tolerance(boxes=0.5, scores=0.24, mask_iou=0.5), False),
        (Tolerance(boxes=0.5, scores=0.25, mask_iou=0.51), False),
    ],
)
def test_each_tolerance_counts_up_to_and_with_its_value(tolerance: Tolerance, within: bool) -> None:
    reference = detections([A, B], scores=[0.75, 0.5])
    other = detections([A, (20, 20, 30.5, 36)], scores=[0.5, 0.5], masks=[(0, 0, 10, 5), B])
    assert agreement(reference, other).within(tolerance) is within


@pytest.mark.parametrize(
    ("wider", "pixels", "within"),
    [
        (1, 4, True),
        (1, 3, False),  # a column of four pixels more
        (2, 4, False),
        (2, 8, True),
    ],
)
def test_a_few_pixels_of_a_small_mask_can_be_let_pass(wider: int, pixels: int, within: bool) -> None:
    reference, other = (detections([A], masks=[(0, 0, 4 + more, 4)]) for more in (0, wider))
    strict = Tolerance(boxes=0, scores=0, mask_iou=0.999)
    result = agreement(reference, other)
    assert not result.within(strict)
    assert result.within(replace(strict, mask_pixels=pixels)) is within


def test_a_large_mask_may_differ_in_more_pixels_than_a_small_one() -> None:
    reference, other = (detections([A], masks=[(0, 0, 50, 40 - less)]) for less in (0, 1))
    assert agreement(reference, other).mask_pixels.tolist() == [50]
    assert agreement(reference, other).within(Tolerance(boxes=0, scores=0, mask_iou=0.975, mask_pixels=1))


@pytest.mark.parametrize("names", [["box_errors"], ["score_errors"], ["mask_ious", "mask_pixels"]])
def test_what_is_not_a_number_is_not_within_any_tolerance(names: list[str]) -> None:
    result = agreement(crowd(3), crowd(3))
    changes: dict[str, Any] = dict.fromkeys(names, np.array([0.5, np.nan, 0.5]))
    broken = replace(result, **changes)
    assert not broken.within(Tolerance(boxes=1e9, scores=1, mask_iou=0, mask_pixels=1))


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0), (1, 1), (7, 5)])
def test_box_ious_are_those_of_torchvision(n: int, m: int) -> None:
    a, b = crowd(n).boxes, crowd(m, seed=1).boxes
    ious = box_ious(a, b)
    assert ious.shape == (n, m)
    np.testing.assert_allclose(ious, box_iou(torch.from_numpy(a).double(), torch.from_numpy(b).double()), atol=1e-12)


@st.composite
def whole_boxes(draw: st.DrawFn) -> npt.NDArray[np.float32]:
    corner, side = st.integers(0, 9), st.integers(1, 9)
    boxes = draw(st.lists(st.tuples(corner, corner, side, side), max_size=5))
    return np.array([(x, y, x + w, y + h) for x, y, w, h in boxes], dtype=np.float32).reshape(-1, 4)


@given(whole_boxes(), whole_boxes())
@settings(deadline=None, derandomize=True, max_examples=200)
def test_box_ious_of_whole_boxes_are_those_of_their_pixels(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]
) -> None:
    ious = box_ious(a, b)
    assert ious.shape == (len(a), len(b))
    for i, j in np.ndindex(ious.shape):
        grids = np.zeros((2, 18, 18), dtype=np.bool_)
        for grid, (x1, y1, x2, y2) in zip(grids, (a[i].astype(int), b[j].astype(int)), strict=True):
            grid[y1:y2, x1:x2] = True
        assert ious[i, j] == pytest.approx((grids[0] & grids[1]).sum() / (grids[0] | grids[1]).sum())


def test_boxes_without_an_area_overlap_nothing() -> None:
    point, box = np.array([[2, 2, 2, 2]], dtype=np.float32), np.array([A], dtype=np.float32)
    assert box_ious(point, point).tolist() == box_ious(point, box).tolist() == [[0]]


def test_merging_adds_counts_and_joins_metrics() -> None:
    first = agreement(crowd(4), crowd(4))
    second = agreement(detections([A, B]), detections([(0.5, 0, 10, 10)], scores=[0.25]))
    none = agreement(crowd(0), crowd(0))
    result = merged([first, none, second])
    assert (result.reference_count, result.other_count, result.matched) == (6, 5, 5)
    assert result.box_errors.tolist() == [0, 0, 0, 0, 0.5]
    assert result.score_errors.tolist() == [0, 0, 0, 0, 0.25]
    assert len(result.mask_ious) == 5


def test_one_image_that_disagrees_spoils_the_whole() -> None:
    good, bad = agreement(crowd(4), crowd(4)), agreement(crowd(0), crowd(1))
    assert merged([good, good]).within(EXACT)
    assert not merged([good, bad]).within(Tolerance(boxes=1e9, scores=1, mask_iou=0))


def test_lack_in_one_image_is_not_made_up_for_by_another() -> None:
    lacking, surplus = agreement(crowd(1), crowd(0)), agreement(crowd(0), crowd(1))
    result = merged([lacking, surplus])
    assert result.reference_count == result.other_count == 1
    assert not result.same_set


def test_merging_takes_any_iterable_and_nothing() -> None:
    assert merged(agreement(crowd(n), crowd(n)) for n in range(3)).matched == 3
    nothing = merged([])
    assert (nothing.reference_count, nothing.other_count, nothing.matched) == (0, 0, 0)


@pytest.mark.parametrize(
    ("result", "summary", "text"),
    [
        (
            agreement(detections([A, B]), detections([A], scores=[0.25])),
            {
                "reference": 2,
                "other": 1,
                "matched": 1,
                "max_box_error_px": 0.0,
                "max_score_error": 0.25,
                "min_mask_iou": 1.0,
            },
            "1 of 2 detections matched (1 on the other side),"
            " boxes within 0 px, scores within 0.25, mask IoU at least 1.000000",
        ),
        (
            agreement(detections([A]), detections([])),
            {
                "reference": 1,
                "other": 0,
                "matched": 0,
                "max_box_error_px": None,
                "max_score_error": None,
                "min_mask_iou": None,
            },
            "0 of 1 detections matched (0 on the other side)",
        ),
        (
            agreement(detections([A, B]), detections([A, B], masks=[A, (20, 20, 30, 28)])),
            {
                "reference": 2,
                "other": 2,
                "matched": 2,
                "max_box_error_px": 0.0,
                "max_score_error": 0.0,
                "min_mask_iou": 0.5,
            },
            "2 of 2 detections matched (2 on the other side),"
            " boxes within 0 px, scores within 0, mask IoU at least 0.500000 (80 px different)",
        ),
    ],
    ids=["one pair", "none", "half a mask"],
)
def test_metrics_of_a_report(result: Agreement, summary: dict[str, Any], text: str) -> None:
    assert result.summary() == summary
    assert str(result) == text
