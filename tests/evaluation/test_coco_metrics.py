"""COCO's metrics: worked out by hand, and one library against the other."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from condinst_deploy.errors import BackendError
from condinst_deploy.evaluation.coco_metrics import CURVE_IOUS, Kind, Scope, average_precision, evaluate_coco, load_coco
from tests.support import small_coco

HALF_RECALL = 51 / 101
"""Share of the recalls 0, 0.01, ..., 1 that are at most 0.5."""


@pytest.fixture
def ground_truth(tmp_path: Path) -> COCO:
    return load_coco(small_coco.written(tmp_path)[0])


# person (1 object and a crowd): the best detection is wrong, the second exact, the third in the crowd and ignored;
#   precision 1/2 at recall 1 and so everywhere: AP 0.5 at every IoU. The wrong one's box has 1,600 pixels, medium, so
#   it does not count among the small: 1. With one detection an image only the wrong one is left: recall 0.
# stop sign (2 objects): one is found with IoU 50*41 / 50*50 = 0.82, right at 0.50 ... 0.80, 7 of 10 thresholds, with
#   recall 1/2: 0.7 * 51/101. The medium one is all of the medium: 0.7; the large one is not found: 0.
# toothbrush: exact: 1.
BOXES = {
    "ap": (0.5 + 0.7 * HALF_RECALL + 1) / 3,
    "ap50": (0.5 + HALF_RECALL + 1) / 3,
    "ap75": (0.5 + HALF_RECALL + 1) / 3,
    "small": 1.0,
    "medium": (0.7 + 1) / 2,
    "large": 0.0,
    "recall1": (0 + 0.7 / 2 + 1) / 3,
    "recall10": (1 + 0.7 / 2 + 1) / 3,
    "recall100": (1 + 0.7 / 2 + 1) / 3,
    "recall_small": 1.0,
    "recall_medium": (0.7 + 1) / 2,
    "recall_large": 0.0,
}
# person: as above, but the wrong mask has 625 pixels and counts among the small: 0.5.
# stop sign: IoU 50*31 / 50*50 = 0.62, right at 0.50, 0.55, 0.60.
# toothbrush: IoU 40*23 / 40*40 = 0.575, right at 0.50, 0.55.
MASKS = {
    "ap": (0.5 + 0.3 * HALF_RECALL + 0.2) / 3,
    "ap50": (0.5 + HALF_RECALL + 1) / 3,
    "ap75": 0.5 / 3,
    "small": 0.5,
    "medium": (0.3 + 0.2) / 2,
    "large": 0.0,
    "recall1": (0 + 0.3 / 2 + 0.2) / 3,
    "recall10": (1 + 0.3 / 2 + 0.2) / 3,
    "recall100": (1 + 0.3 / 2 + 0.2) / 3,
    "recall_small": 1.0,
    "recall_medium": (0.3 + 0.2) / 2,
    "recall_large": 0.0,
}


@pytest.mark.parametrize(("kind", "expected"), [("bbox", BOXES), ("segm", MASKS)])
def test_all_twelve_metrics_are_those_worked_out_by_hand(
    ground_truth: COCO, kind: Kind, expected: dict[str, float]
) -> None:
    assert average_precision(ground_truth, small_coco.results(), kind)._asdict() == pytest.approx(expected, abs=1e-9)


def test_metrics_of_each_class(ground_truth: COCO) -> None:
    classes = evaluate_coco(ground_truth, small_coco.results(), "segm").per_class
    assert list(classes) == [1, 13, 90]
    assert [classes[i].ap for i in (1, 13, 90)] == pytest.approx([0.5, 0.3 * HALF_RECALL, 0.2], abs=1e-9)
    assert [classes[i].large for i in (1, 13, 90)] == [-1, 0, -1]
    assert classes[1].recall1 == 0


def test_curves_are_the_mean_precision_at_every_recall(ground_truth: COCO) -> None:
    curves = evaluate_coco(ground_truth, small_coco.results(), "bbox").curves
    assert curves.shape == (len(CURVE_IOUS), 101)
    np.testing.assert_allclose(curves[0, :51], (0.5 + 1 + 1) / 3)
    np.testing.assert_allclose(curves[0, 51:], (0.5 + 0 + 1) / 3)
    np.testing.assert_allclose(curves.mean(axis=1), [BOXES["ap50"], BOXES["ap75"]])


def test_nothing_found_is_zero_and_nothing_annotated_is_no_figure(ground_truth: COCO) -> None:
    metrics = average_precision(ground_truth, [], "segm")
    assert set(metrics) == {0.0}
    only_first = evaluate_coco(ground_truth, [], "segm", Scope((139,)))
    assert (only_first.metrics.ap, only_first.metrics.large) == (0, -1)
    assert only_first.per_class[90].ap == -1


def test_only_the_images_of_the_scope_count(ground_truth: COCO) -> None:
    metrics = evaluate_coco(ground_truth, small_coco.results(), "bbox", Scope((285, 632))).metrics
    # the large stop sign is not found, the toothbrush is
    assert (metrics.ap, metrics.small, metrics.medium, metrics.large) == pytest.approx((0.5, -1, 1, 0))


def test_results_are_left_as_they_are(ground_truth: COCO) -> None:
    results = small_coco.results()
    evaluate_coco(ground_truth, results, "bbox")
    evaluate_coco(ground_truth, results, "segm")
    assert results == small_coco.results()


def test_an_annotation_of_id_0_is_found(tmp_path: Path) -> None:
    values = small_coco.content()
    values["annotations"][0]["id"] = 0
    ground_truth = load_coco(small_coco.written(tmp_path, values)[0])
    assert average_precision(ground_truth, small_coco.results(), "bbox")._asdict() == pytest.approx(BOXES, abs=1e-9)


def test_missing_areas_and_crowd_marks_are_filled_in(tmp_path: Path) -> None:
    values = small_coco.content()
    for entry in values["annotations"]:
        del entry["area"]
        if not entry["iscrowd"]:
            del entry["iscrowd"]
    ground_truth = load_coco(small_coco.written(tmp_path, values)[0])
    assert average_precision(ground_truth, small_coco.results(), "segm")._asdict() == pytest.approx(MASKS, abs=1e-9)


def many_results(ground_truth: COCO, count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    results = []
    for i, x, y, side in zip(
        rng.choice(small_coco.IMAGES, count), *rng.integers(5, 90, (3, count)).tolist(), strict=True
    ):
        box = (x, y, side, side)
        category = int(rng.choice(list(small_coco.CATEGORIES)))
        results.append(small_coco.result(int(i), category, float(rng.random()), box, box))
    exact = [
        small_coco.result(a["image_id"], a["category_id"], 0.5, tuple(a["bbox"]), tuple(a["bbox"]))
        for a in ground_truth.dataset["annotations"]
    ]
    return results + exact


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("count", [0, 1200])
def test_faster_coco_eval_gives_the_same_metrics(ground_truth: COCO, kind: Kind, count: int) -> None:
    pytest.importorskip("faster_coco_eval", reason="faster-coco-eval is not installed (pip install '.[eval]')")
    for results in (many_results(ground_truth, count), small_coco.results(), []):
        for image_ids in (None, (139, 285)):
            slow, fast = (evaluate_coco(ground_truth, results, kind, Scope(image_ids, fast)) for fast in (False, True))
            np.testing.assert_allclose(fast.metrics, slow.metrics, atol=1e-12)
            np.testing.assert_allclose(fast.curves, slow.curves, atol=1e-12)
            assert list(fast.per_class) == list(slow.per_class)
            np.testing.assert_allclose(list(fast.per_class.values()), list(slow.per_class.values()), atol=1e-12)


LARGE_IDS = {
    "2**53 and its neighbours": (2**53, 2**53 + 1, 2**53 + 2),
    "unsigned 64 bits": (9990111222333444555, 17000111222333444555, 2**64 - 1),
    "negative": (-1, -(2**40), -7),
    "0 and mixed": (0, -5, 2**63),
}


@pytest.mark.parametrize("ids", LARGE_IDS.values(), ids=LARGE_IDS)
@pytest.mark.parametrize("fast", [False, True])
def test_ids_of_any_size_and_sign_are_told_apart(ids: tuple[int, ...], fast: bool, tmp_path: Path) -> None:
    """Metrics of a data set with other ids of images and categories, against those of the small ids."""
    if fast:
        pytest.importorskip("faster_coco_eval")
    images = dict(zip(small_coco.IMAGES, ids, strict=True))
    categories = dict(zip(sorted(small_coco.CATEGORIES), sorted(ids), strict=True))
    content, results = small_coco.content(), small_coco.results()
    want = evaluate_coco(load_coco(small_coco.written(tmp_path)[0]), results, "segm", Scope((139, 285)))
    for entry in content["images"]:
        entry["id"] = images[entry["id"]]
    for entry in content["categories"]:
        entry["id"] = categories[entry["id"]]
    for entry in (*content["annotations"], *results):
        entry |= {"image_id": images[entry["image_id"]], "category_id": categories[entry["category_id"]]}
    path = tmp_path / "large.json"
    path.write_text(json.dumps(content))
    found = evaluate_coco(load_coco(path), results, "segm", Scope((images[139], images[285]), fast))
    np.testing.assert_allclose(found.metrics, want.metrics, atol=1e-12)
    assert want.metrics.ap > 0
    assert list(found.per_class) == sorted(ids)
    np.testing.assert_allclose(list(found.per_class.values()), list(want.per_class.values()), atol=1e-12)


def test_fast_without_its_library_says_what_to_install(ground_truth: COCO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval", None)
    with pytest.raises(BackendError, match=r"pip install 'condinst-deploy\[eval\]'"):
        evaluate_coco(ground_truth, small_coco.results(), "bbox", Scope(fast=True))


def test_pycocotools_own_summary_agrees_where_only_masks_are_given(ground_truth: COCO, tmp_path: Path) -> None:
    from pycocotools.cocoeval import COCOeval

    path = tmp_path / "masks.json"
    path.write_text(json.dumps([{k: v for k, v in e.items() if k != "bbox"} for e in small_coco.results()]))
    evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(path)), "segm")
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        step()
    assert evaluation.stats.tolist() == list(average_precision(ground_truth, small_coco.results(), "segm"))
