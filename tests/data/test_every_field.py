"""Every field of annotation, results and threshold files with every kind of wrong value: one line that says it all."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.errors import DataError
from condinst_deploy.evaluation.coco_metrics import load_coco
from condinst_deploy.evaluation.ground_truth import load_ground_truth
from condinst_deploy.evaluation.results_reader import read_results
from condinst_deploy.evaluation.threshold_file import load_thresholds
from tests.support import small_coco

RUNS: dict[str, Any] = {"size": [48, 64], "counts": [0, 10, 48 * 64 - 10]}
BOX: dict[str, Any] = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [7, 5, 23, 15], "area": 345, "iscrowd": 0}
ANNOTATIONS: Any = {
    "images": [{"id": 1, "file_name": "0.png", "height": 48, "width": 64}],
    "categories": [{"id": 1, "name": "a"}],
    "annotations": [
        BOX | {"ignore": 0, "segmentation": [[7, 5, 30, 5, 30, 20]]},
        BOX | {"id": 2, "segmentation": RUNS},
    ],
}
RESULTS: Any = [{"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4], "segmentation": RUNS}]
POINTS: Any = {"overall": {"threshold": 0.5}, "per_class": [{"name": "a", "threshold": 0.5}]}
METRICS: Any = {"sides": [{"name": "m", "settings": {"model": {"sha256": "x"}}, "thresholds": POINTS}]}
FILES: dict[str, Any] = {"annotations": ANNOTATIONS, "results": RESULTS, "thresholds": METRICS}

WRONG = {
    "NaN": "NaN",
    "infinity": "1e999",
    "5,000 digits": "1" * 5000,
    "1,000 digits": "-" + "1" * 1000,
    "500 levels": "[" * 500 + "]" * 500,
    "100,000 levels": "[" * 100_000 + "]" * 100_000,
    "lone surrogate": '"\\ud800"',
    "fraction": "-0.123",
    "bool": "false",
    "text": '"\\u001b[2J\\n' + "y" * 10**5 + '"',
    "object": "{}",
}
"""Kind of a value -> JSON."""

Place = tuple[str | int, ...]
MEANT = {  # what is taken, because it has a meaning
    "text": {"file_name", "name", "sha256"},
    "fraction": {"bbox", "segmentation", "score", "area"},
    "bool": {"iscrowd", "ignore"},
    "object": {"settings", "model"},
}
NAMES = {"segmentation": ("segmentation", "RLE", "polygon"), "counts": ("counts",), "size": ("size",)}
"""Field -> what messages call it, where it is not the field's name."""


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, child in items:
        yield from places(child, (*place, key))


def written(content: Any, place: Place, raw: str) -> str:
    if not place:
        return raw
    changed = copy.deepcopy(content)
    inside = changed
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = "@"
    return json.dumps(changed).replace('"@"', raw)


def reader(kind: str, folder: Path) -> Callable[[Path], object]:
    if kind == "annotations":
        return lambda path: load_ground_truth(path, None)
    if kind == "thresholds":
        (folder / "m.onnx").write_bytes(b"model")
        return lambda path: load_thresholds(path, folder / "m.onnx")
    (folder / "a.json").write_text(json.dumps(ANNOTATIONS))
    ground_truth = load_ground_truth(folder / "a.json", None)
    return lambda path: read_results(path, ground_truth)


@pytest.mark.parametrize(
    ("kind", "place"), [(kind, place) for kind, content in FILES.items() for place in places(content)]
)
def test_a_wrong_value_of_any_field_is_one_line(kind: str, place: Place, tmp_path: Path) -> None:
    read, path = reader(kind, tmp_path), tmp_path / "f.json"
    field = next((key for key in reversed(place) if isinstance(key, str)), "")
    for name, raw in WRONG.items():
        path.write_text(written(FILES[kind], place, raw))
        if field in MEANT.get(name, ()):
            try:
                read(path)
                continue
            except DataError as e:
                message = str(e)
        else:
            with pytest.raises(DataError) as refused:
                read(path)
            message = str(refused.value)
        assert "f.json" in message, name
        assert "expected" in message, name
        assert message.isprintable(), name
        assert len(message) < 700, name
        if name == "100,000 levels":  # nothing of the file is known
            assert "nested too deeply" in message
        elif name != "object":  # an object without fields is one whose first field is missing
            assert any(word in message for word in NAMES.get(field, (field,))), (name, message)


@pytest.mark.parametrize("kind", FILES)
def test_the_files_without_a_wrong_value_are_taken(kind: str, tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(json.dumps(FILES[kind]))
    reader(kind, tmp_path)(tmp_path / "f.json")


@pytest.mark.parametrize("name", ["iscrowd", "area", "ignore"])
def test_null_means_what_no_field_means(name: str, tmp_path: Path) -> None:
    """For training, and for pycocotools, which reads the objects themselves."""
    found = []
    for variant in ("null", "none"):
        content = small_coco.content()
        for entry in content["annotations"]:
            entry.pop(name, None)
            if variant == "null":
                entry[name] = None
        annotations, images = small_coco.written(tmp_path / variant, content)
        data = CocoDataset(annotations, images, training=True)
        objects = load_coco(annotations).anns
        found.append((data.records.objects.ids.tolist(), [each.reason for each in data.left_out], objects))
    assert found[0] == found[1]
