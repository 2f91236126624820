"""Detections: their fields go together, can be picked from, and become COCO results and supervision's."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import supervision
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.contract.coco_classes import COCO_CLASSES
from condinst_deploy.errors import ConfigError
from condinst_deploy.masks import Selector
from tests.support.discs import HEIGHT, WIDTH, detections


def changed(**changes: Any) -> InstanceDetections:
    return replace(detections(2), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"boxes": np.zeros((1, 4), np.float32)},
        {"boxes": np.zeros((2, 5), np.float32)},
        {"boxes": np.zeros(8, np.float32)},
        {"scores": np.zeros(3, np.float32)},
        {"scores": np.zeros((2, 1), np.float32)},
        {"labels": np.zeros(1, np.int64)},
        {"labels": np.zeros((2, 2), np.int64)},
        {"masks": detections(1).masks},
    ],
)
def test_fields_of_different_lengths_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected \(n, 4\), \(n,\), \(n,\), n"):
        changed(**changes)


@pytest.mark.parametrize(
    ("labels", "outlier"),
    [
        ([0, 3], 3),
        ([-1, -1], -1),
        ([-1, 2], -1),
    ],
)
def test_label_without_a_name_is_refused_and_named(labels: list[int], outlier: int) -> None:
    with pytest.raises(ConfigError, match=f"labels reach {outlier}; there are 3 class names"):
        changed(labels=np.array(labels))


def test_labels_may_reach_the_last_class() -> None:
    assert changed(labels=np.array([2, 0])).names == ["owl", "cat"]


@pytest.mark.parametrize("which", [0, -1, slice(1, None), [2, 0], [], np.array([False, True, False, True])], ids=str)
def test_indexing_detections_picks_the_same_of_every_field(which: Selector) -> None:
    whole = detections(4)
    part = whole[which]
    picked = np.atleast_1d(np.arange(4)[which])
    assert len(part) == len(picked)
    assert np.array_equal(part.boxes, whole.boxes[picked])
    assert np.array_equal(part.scores, whole.scores[picked])
    assert np.array_equal(part.labels, whole.labels[picked])
    assert np.array_equal(np.asarray(part.masks), np.asarray(whole.masks)[picked])
    assert part.names == [whole.names[i] for i in picked]
    assert (part.class_names, part.category_ids) == (whole.class_names, whole.category_ids)


def test_detections_can_be_iterated() -> None:
    assert [part.names for part in iter(detections(4))] == [["cat"], ["dog"], ["owl"], ["cat"]]


def test_detection_that_is_not_there_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        detections(2)[2]


def coco_ground_truth() -> COCO:
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": 42, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": i, "name": name} for i, name in COCO_CLASSES.items()],
        "annotations": [],
    }
    coco.createIndex()
    return coco


def coco_detections(count: int) -> InstanceDetections:
    found = detections(count, tuple(COCO_CLASSES.values()))
    labels = (np.arange(count, dtype=np.int64) * 79 // max(count - 1, 1)) % 80
    return replace(found, labels=labels, category_ids=tuple(COCO_CLASSES))


def test_coco_results_load_in_pycocotools() -> None:
    found = coco_detections(5)
    entries = json.loads(json.dumps(found.to_coco(42)))
    loaded = coco_ground_truth().loadRes(entries)
    annotations = loaded.loadAnns(loaded.getAnnIds(imgIds=[42]))
    assert len(annotations) == len(found)
    dense = np.asarray(found.masks)
    for i, annotation in enumerate(annotations):
        category = loaded.loadCats(annotation["category_id"])[0]
        assert category["name"] == found.names[i]
        assert annotation["score"] == pytest.approx(float(found.scores[i]))
        x, y, width, height = annotation["bbox"]
        assert [x, y, x + width, y + height] == found.boxes[i].tolist()
        assert np.array_equal(loaded.annToMask(annotation), dense[i])


def test_coco_results_evaluate_perfectly_against_themselves() -> None:
    entries = coco_detections(3).to_coco(42)
    ground_truth = coco_ground_truth()
    ground_truth.dataset["annotations"] = [
        {key: value for key, value in entry.items() if key != "score"}
        | {"id": i + 1, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
        for i, entry in enumerate(entries)
    ]
    ground_truth.createIndex()
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(ground_truth, ground_truth.loadRes([dict(entry) for entry in entries]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)


def test_no_detections_are_no_coco_results() -> None:
    assert detections(0).to_coco(1) == []


@pytest.mark.parametrize("count", [0, 1, 4])
def test_supervision_gets_the_same_detections(count: int) -> None:
    found = detections(count)
    theirs = found.to_supervision()
    assert isinstance(theirs, supervision.Detections)
    assert len(theirs) == count
    assert np.array_equal(theirs.xyxy, found.boxes)
    assert theirs.mask is not None
    assert theirs.confidence is not None
    assert theirs.class_id is not None
    assert np.array_equal(theirs.mask, np.asarray(found.masks))
    assert theirs.mask.dtype == np.bool_
    assert np.array_equal(theirs.confidence, found.scores)
    assert np.array_equal(theirs.class_id, found.labels)
    assert list(theirs.data["class_name"]) == found.names


def test_supervision_can_filter_and_annotate_them() -> None:
    found = detections(4)
    theirs = found.to_supervision()
    dogs = theirs[theirs.data["class_name"] == "dog"]
    assert isinstance(dogs, supervision.Detections)
    assert np.array_equal(dogs.xyxy, found[found.labels == 1].boxes)
    blank = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    annotated = np.asarray(supervision.MaskAnnotator(opacity=1).annotate(blank.copy(), theirs))
    assert np.array_equal(annotated.any(axis=2), np.asarray(found.masks).any(axis=0))
