"""Thresholds and confusions, worked out by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from condinst_deploy.evaluation.evaluator import Side
from condinst_deploy.evaluation.ground_truth import GroundTruth, load_ground_truth
from condinst_deploy.evaluation.operating_points import (
    FREE,
    IGNORED,
    OperatingPoint,
    OperatingPoints,
    best_point,
    operating_points,
)
from condinst_deploy.evaluation.threshold_tables import confusion_title
from condinst_deploy.runtime.postprocess import ResultFilter
from tests.support import small_coco

PERSON, STOP_SIGN, TOOTHBRUSH = 1, 13, 90


@pytest.fixture(scope="module")
def ground_truth(tmp_path_factory: pytest.TempPathFactory) -> GroundTruth:
    return load_ground_truth(*small_coco.written(tmp_path_factory.mktemp("coco")))


def values(point: OperatingPoint) -> tuple[int, float | None, float | None, float | None, float | None]:
    return point.objects, point.threshold, point.f1, point.precision, point.recall


def test_thresholds_of_a_small_data_set(ground_truth: GroundTruth) -> None:
    points = operating_points(small_coco.results(), ground_truth)
    assert points.kind == "segm"
    # person: 0.95 is wrong, 0.9 right, 0.8 lies in a crowd: F1 = 2 * 1 / (2 detections + 1 object), middle of 0.9, 0.8
    assert values(points.classes[PERSON]) == pytest.approx((1, 0.85, 2 / 3, 0.5, 1.0))
    # stop sign: one of two is found with an IoU of 31 / 50; nothing is below it
    assert values(points.classes[STOP_SIGN]) == pytest.approx((2, 0.35, 2 / 3, 1.0, 0.5))
    assert values(points.classes[TOOTHBRUSH]) == pytest.approx((1, 0.3, 1.0, 1.0, 1.0))
    # all: 3 right, 1 wrong, 4 objects: F1 = 6 / 8
    assert values(points.overall) == pytest.approx((4, 0.3, 0.75, 0.75, 0.75))
    assert points.confusion == {
        (PERSON, PERSON): 1,
        (STOP_SIGN, STOP_SIGN): 1,
        (TOOTHBRUSH, TOOTHBRUSH): 1,
        (None, PERSON): 1,
        (STOP_SIGN, None): 1,
    }


def test_an_object_that_is_found_as_another_class_is_a_confusion(ground_truth: GroundTruth) -> None:
    results = small_coco.results()
    results[4]["category_id"] = STOP_SIGN  # the toothbrush
    results.append(small_coco.result(285, STOP_SIGN, 0.5, (50, 50, 100, 100), (50, 50, 100, 100)))
    points = operating_points(results, ground_truth)
    # by falling score: wrong, right, right, wrong, right of 4 objects: F1 = 2 * 3 / (5 + 4)
    assert values(points.overall) == pytest.approx((4, 0.25, 2 / 3, 0.6, 0.75))
    assert points.confusion == {
        (PERSON, PERSON): 1,
        (STOP_SIGN, STOP_SIGN): 2,
        (TOOTHBRUSH, STOP_SIGN): 1,
        (None, PERSON): 1,
    }
    assert values(points.classes[TOOTHBRUSH]) == (1, None, None, None, None)


def test_boxes_are_compared_where_there_are_no_masks(ground_truth: GroundTruth) -> None:
    boxes = [{k: v for k, v in entry.items() if k != "segmentation"} for entry in small_coco.results()]
    points = operating_points(boxes, ground_truth)
    assert points.kind == "bbox"
    assert points.overall.recall == 0.75


def test_nothing_found_gives_no_threshold(ground_truth: GroundTruth) -> None:
    points = operating_points([], ground_truth)
    assert values(points.overall) == (4, None, None, None, None)
    assert points.confusion == {}


def test_a_second_detection_of_an_object_is_wrong(ground_truth: GroundTruth) -> None:
    twice: list[dict[str, Any]] = [
        small_coco.result(285, STOP_SIGN, score, (50, 50, 100, 100), (50, 50, 100, 100)) for score in (0.8, 0.9)
    ]
    points = operating_points(twice, ground_truth)
    # the better one alone: F1 = 2 * 1 / (1 + 4)
    assert values(points.overall) == pytest.approx((4, 0.85, 0.4, 1.0, 0.25))


@pytest.mark.parametrize(
    ("scores", "partners", "objects", "expected"),
    [
        # equal scores stay together: 1 of 2 right, 1 object
        ([0.5, 0.5], [FREE, 0], 1, OperatingPoint(1, 0.25, 2 / 3, 0.5, 1.0)),
        # of equal F1 (1/2 at 0.9 and at 0.6) the higher score
        ([0.9, 0.8, 0.7, 0.6, 0.6], [0, FREE, FREE, 1, FREE], 3, OperatingPoint(3, 0.85, 0.5, 1.0, 1 / 3)),
        ([0.9, 0.8], [IGNORED, 0], 2, OperatingPoint(2, 0.4, 2 / 3, 1.0, 0.5)),
        ([0.9], [FREE], 0, OperatingPoint(0)),
        # no threshold keeps a score of 0
        ([0.9, 0.0], [0, 1], 2, OperatingPoint(2, 0.45, 2 / 3, 1.0, 0.5)),
        ([0.0], [0], 1, OperatingPoint(1)),
        ([0.9, 0.0], [FREE, 0], 1, OperatingPoint(1)),
        ([0.9], [FREE], 3, OperatingPoint(3)),
        ([], [], 3, OperatingPoint(3)),
    ],
)
def test_best_points(scores: list[float], partners: list[int], objects: int, expected: OperatingPoint) -> None:
    found = best_point(np.array(scores, dtype=np.float64), np.array(partners, dtype=np.int64), objects)
    assert values(found) == pytest.approx(values(expected))


def test_the_threshold_keeps_what_the_point_counts() -> None:
    random = np.random.default_rng(3)
    scores = random.uniform(0.05, 1, 200).round(2)
    partners = np.where(random.uniform(size=200) < scores, np.arange(200), FREE)
    point = best_point(scores, partners, 150)
    assert point.threshold is not None
    kept = scores > point.threshold
    assert point.precision == pytest.approx((partners[kept] >= 0).mean())
    assert point.recall == pytest.approx((partners[kept] >= 0).sum() / 150)
    # no other threshold is better
    for threshold in np.unique(scores):
        right = (partners[scores > threshold] >= 0).sum()
        assert 2 * right / ((scores > threshold).sum() + 150) <= (point.f1 or 0) + 1e-12


@pytest.mark.parametrize(
    "scores",
    [
        (0.1 + 0.2, 0.3),  # neighbours: their middle is rounded to the larger one
        (1.0, np.nextafter(1, 0)),
        (0.05, 0.0),
        (0.05, -1.0),
        (-1.0,),
        (5e-324,),
        (1.7e308, 1.6e308),  # their sum is infinite
    ],
)
def test_a_threshold_is_finite_and_between_the_scores(scores: tuple[float, ...]) -> None:
    partners = np.array([0, FREE][: len(scores)])
    point = best_point(np.array(scores, dtype=np.float64), partners, 1)
    assert point.threshold is not None
    assert np.isfinite(point.threshold)
    assert [score > point.threshold for score in scores] == [True, False][: len(scores)]


def test_a_threshold_separates_the_float32_scores_of_a_model() -> None:
    """A predictor compares in float32, in which the middle of neighbouring scores is one of the two."""
    scores = np.array([1, 0.75, 0.5, 0.050000004], dtype=np.float32)
    for kept in (*scores, *np.nextafter(scores, np.float32(0))):
        pair = np.array([kept, np.nextafter(kept, np.float32(0))])
        point = best_point(pair.astype(np.float64), np.array([0, FREE]), 1)
        found = ResultFilter(score_threshold=point.threshold).kept(pair, np.zeros(2, dtype=np.int32))
        assert found.tolist() == [0]


def test_the_title_of_confusions_tells_rows_from_columns() -> None:
    side = Side("m.onnx", "", {}, 0, Path("r.json"), 0, {}, OperatingPoints("bbox", OperatingPoint(3, 0.25), {}, {}))
    assert confusion_title(side, whole=True) == (
        "confusions of m.onnx above the score 0.250: rows are annotated classes, columns are found classes"
    )
    assert confusion_title(side, whole=False).endswith(": annotated class, found class, number of objects")
