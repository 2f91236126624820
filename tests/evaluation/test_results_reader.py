"""Results files: read back as written, from anywhere, and one line for everything that is wrong with one."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from pycocotools import mask as coco_mask

from condinst_deploy.errors import DataError
from condinst_deploy.evaluation.coco_metrics import evaluate_coco
from condinst_deploy.evaluation.ground_truth import GroundTruth, load_ground_truth
from condinst_deploy.evaluation.results_reader import by_image, kinds_of, read_results
from condinst_deploy.runtime.coco_results import coco_results
from tests.support import small_coco


@pytest.fixture
def ground_truth(tmp_path: Path) -> GroundTruth:
    return load_ground_truth(*small_coco.written(tmp_path))


def saved(folder: Path, content: Any) -> Path:
    path = folder / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def without(key: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k != key} for entry in small_coco.results()]


def test_what_is_written_is_read_back(ground_truth: GroundTruth, tmp_path: Path) -> None:
    with coco_results(tmp_path / "r.json") as writer:
        writer.add_entries(small_coco.results())
    assert read_results(tmp_path / "r.json", ground_truth) == small_coco.results()
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = ground_truth.coco.loadRes(str(tmp_path / "r.json"))  # as it is
    assert len(loaded.anns) == 5


@pytest.mark.parametrize("content", [[], small_coco.results()], ids=["empty", "full"])
def test_both_kinds_of_metrics_come_from_a_full_file(
    content: list[Any], ground_truth: GroundTruth, tmp_path: Path
) -> None:
    entries = read_results(saved(tmp_path, content), ground_truth)
    assert kinds_of(entries, ground_truth) == ("bbox", "segm")
    assert sum(map(len, by_image(entries).values())) == len(content)


def test_boxes_alone_give_the_metrics_of_boxes(ground_truth: GroundTruth, tmp_path: Path) -> None:
    entries = read_results(saved(tmp_path, without("segmentation")), ground_truth)
    assert kinds_of(entries, ground_truth) == ("bbox",)
    expected = evaluate_coco(ground_truth.coco, small_coco.results(), "bbox").metrics
    assert evaluate_coco(ground_truth.coco, entries, "bbox").metrics == expected


def test_masks_alone_bring_their_boxes(ground_truth: GroundTruth, tmp_path: Path) -> None:
    entries = read_results(saved(tmp_path, without("bbox")), ground_truth)
    assert kinds_of(entries, ground_truth) == ("bbox", "segm")
    assert [entry["bbox"] for entry in entries][3] == [40, 40, 50, 31]
    expected = evaluate_coco(ground_truth.coco, small_coco.results(), "segm").metrics
    assert evaluate_coco(ground_truth.coco, entries, "segm").metrics == expected


def test_polygons_and_uncompressed_masks_become_rle(ground_truth: GroundTruth, tmp_path: Path) -> None:
    polygon, runs = small_coco.results()[:2]
    polygon["segmentation"] = [[10, 10, 30, 10, 30, 30, 10, 30], [50, 50, 60, 50, 60, 60, 50, 60]]
    runs["segmentation"] = {"size": [200, 200], "counts": [0, 400, 39_600]}  # two columns
    entries = read_results(saved(tmp_path, [polygon, runs]), ground_truth)
    assert [coco_mask.area(entry["segmentation"]) for entry in entries] == [400 + 100, 400]


def test_images_that_are_not_evaluated_are_left_out(tmp_path: Path) -> None:
    ground_truth = load_ground_truth(*small_coco.written(tmp_path), limit=1)
    entries = read_results(saved(tmp_path, small_coco.results()), ground_truth)
    assert {entry["image_id"] for entry in entries} == {139}


def test_keys_that_others_write_are_dropped(ground_truth: GroundTruth, tmp_path: Path) -> None:
    extra = [entry | {"id": 5, "area": 7, "text": "x"} for entry in small_coco.results()]
    assert read_results(saved(tmp_path, extra), ground_truth) == small_coco.results()


def entry(**changes: Any) -> list[dict[str, Any]]:
    """A good entry and one that is not."""
    first, second = small_coco.results()[:2]
    return [first, {k: v for k, v in (second | changes).items() if v is not ...}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2", "is not JSON"),
        ({"annotations": []}, "holds no list"),
        ([1], "entry 1 is no detection .*expected an object with 'bbox', 'segmentation' or both"),
        ([{"image_id": 139}], "entry 1 is no detection .*expected an object with 'bbox', 'segmentation' or both"),
        (entry(bbox=...), "entry 2 is no detection like the others; expected an object with 'bbox' and 'segm"),
        (entry(image_id=140), "entry 2 has image_id 140, which no image of .*instances.json has"),
        (entry(image_id="139"), "entry 2 has image_id '139'"),
        (entry(image_id=[1]), r"entry 2 has image_id \[1\]"),
        (entry(category_id=2), "entry 2 has category_id 2, which no category"),
        (entry(category_id=...), "entry 2 has category_id None"),
        (entry(score="high"), "entry 2 has score 'high'; expected a finite number"),
        (entry(score=float("nan")), "entry 2 has score nan"),
        (entry(bbox=[1, 2, 3]), r"entry 2 has bbox \[1, 2, 3\]; expected four finite numbers"),
        (entry(segmentation={"size": [100, 100], "counts": "0"}), r"its image is \[200, 200\]"),
        (entry(segmentation={"size": [200, 200], "counts": "0"}), "entry 2 has a damaged RLE"),
        (entry(segmentation=7), "entry 2 has segmentation 7; expected polygons or an RLE"),
    ],
)
def test_what_is_wrong_is_one_line(content: Any, message: str, ground_truth: GroundTruth, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_results(saved(tmp_path, content), ground_truth)


def test_a_missing_file_is_one_line(ground_truth: GroundTruth, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json cannot be read"):
        read_results(tmp_path / "none.json", ground_truth)
