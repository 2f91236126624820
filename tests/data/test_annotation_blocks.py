"""Annotations that are checked many at once: the same objects, the same errors, the same order as one by one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from condinst_deploy.data import annotation_checks, coco
from condinst_deploy.data.annotation_arrays import Block, Record
from condinst_deploy.data.annotation_blocks import BLOCK, Known, block_of
from condinst_deploy.data.annotation_checks import LeftOut
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.errors import DataError
from tests.support.coco_sized import made_up_annotations

WIDTH, HEIGHT = 64, 48
TRIANGLE = [4.0, 5.0, 30.0, 6.0, 20.0, 28.0]
SOUND: dict[str, Any] = {"image_id": 2, "category_id": 1, "bbox": [4, 5.5, 26, 23], "segmentation": [TRIANGLE]}

ODD: list[dict[str, Any]] = [
    {},
    {"area": 3},
    {"area": 0},
    {"iscrowd": 1},
    {"iscrowd": 0.0},
    {"ignore": 1},
    {"ignore": False},
    {"bbox": [70, 5, 10, 10]},
    {"bbox": [1, 1, 0.5, 9]},
    {"bbox": [0, 0, 1, 1], "area": 1e-9},
    {"segmentation": [TRIANGLE, [1, 2]]},
    {"segmentation": [[1, 2, 3, 4]]},
    {"segmentation": [TRIANGLE, [1, 2, 9, 9, 3, 4, 5, 6]]},
    {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [100, 50, HEIGHT * WIDTH - 150]}},
    {"image_id": 1},
    {"image_id": 3, "category_id": 7},
]
"""Values that ordinary and other annotations have instead; none is wrong."""

WRONG: list[dict[str, Any]] = [
    {"image_id": 9},
    {"image_id": "2"},
    {"category_id": 9},
    {"category_id": True},
    {"bbox": [1, 2, 3]},
    {"bbox": [1, 2, 3, True]},
    {"bbox": [1, 2, 3, float("nan")]},
    {"bbox": [float("nan"), 2, 3, 3]},
    {"bbox": [1, 2, 3, 2e9]},
    {"area": "1"},
    {"area": float("inf")},
    {"iscrowd": 2},
    {"segmentation": None},
    {"segmentation": []},
    {"segmentation": [TRIANGLE, TRIANGLE[:5]]},
    {"segmentation": [TRIANGLE, {}]},
    {"segmentation": [[*TRIANGLE[:5], "x"]]},
    {"segmentation": [[True, 2, 9, 9, 3, 4]]},
    {"segmentation": [[*TRIANGLE[:5], float("nan")]]},
    {"segmentation": [[*TRIANGLE[:5], 641]]},
    {"segmentation": [[*TRIANGLE[:5], -641], TRIANGLE]},
    {"segmentation": [[*TRIANGLE[:5], 10**400]]},
    {"segmentation": [[0, 0, 600, 600] * 60]},
    {"segmentation": {"size": [1, 1], "counts": [1]}},
]


def written(folder: Path, annotations: list[dict[str, Any]]) -> Path:
    images = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in (2, 1, 3)]
    categories = [{"id": i, "name": f"class {i}"} for i in (7, 1)]
    path = folder / "set.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave all annotations to the checks one by one."""

    def none_of(annotations: list[dict[str, Any]], first: int, known: Known) -> tuple[Block, list[int]]:
        block, _ = block_of([], first, known)
        return block, list(range(len(annotations)))

    monkeypatch.setattr(coco, "block_of", none_of)


def plain(record: Record) -> Any:
    """A record's values, which compare."""
    instances = [
        (*i[:2], [part.tolist() for part in i[2]] if isinstance(i[2], tuple) else i[2], *i[3:])
        for i in record.instances
    ]
    return record._replace(instances=[]), instances


def values_of(path: Path, block: int = BLOCK) -> tuple[list[Any], list[LeftOut], int]:
    data = CocoDataset(path, None, training=False, block=block)
    return [plain(record) for record in data.all_records], data.left_out, data.dropped_parts


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_objects_are_those_of_the_checks_one_by_one(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = np.random.default_rng(block).integers(0, len(ODD), 300)
    path = written(tmp_path, [SOUND | ODD[kind] | {"id": 1000 - i} for i, kind in enumerate(drawn.tolist())])
    got = values_of(path, block)
    one_by_one(monkeypatch)
    assert got == values_of(path)
    records, left_out, dropped = got
    assert [record[0].image_id for record in records] == [2, 1, 3]
    assert sum(len(instances) for _, instances in records) + len(left_out) == 300
    assert {each.reason for each in left_out} >= {"crowd", "without area", "polygons without area", "below one pixel"}
    assert dropped > 0
    places = [[1000 - instance[3] for instance in instances] for _, instances in records]
    assert all(own == sorted(own) for own in places), "not in the order of the file"


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_what_is_wrong_is_named_as_one_by_one(
    wrong: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotations = [SOUND | {"id": i} for i in range(1, 9)]
    annotations[4] |= wrong
    annotations[6] |= {"segmentation": 5}
    path = written(tmp_path, annotations)
    messages = []
    for check in (lambda _: None, one_by_one):
        check(monkeypatch)
        with pytest.raises(DataError, match="annotation 5 ") as raised:
            CocoDataset(path, None, training=True)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


def test_ordinary_objects_are_not_checked_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(annotation_checks, "checked_segmentation", lambda parts, size, where: asked.append(where))
    path = made_up_annotations(tmp_path / "set.json", images=50, objects=400)
    data = CocoDataset(path, None, training=True)
    assert asked == []
    assert len(data.left_out) == 4
    assert sum(len(record.instances) for record in data.records) == 396
