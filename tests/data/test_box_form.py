"""Boxes that are corners, and images that are trained on and evaluated on."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from condinst_deploy.data.analysis import analyse
from condinst_deploy.data.coco import CocoDataset, evaluation_set
from condinst_deploy.data.data_report import DataReport
from condinst_deploy.errors import DataError
from tests.support.analysed_sets import BIG, HEIGHT, PREPROCESSING, WIDTH, annotation, image, polygon, report_of


def as_corners(entry: dict[str, Any]) -> dict[str, Any]:
    x, y, width, height = entry["bbox"]
    return entry | {"bbox": [x, y, x + width, y + height]}


def test_boxes_that_are_mostly_corners_are_refused_with_what_was_expected(tmp_path: Path) -> None:
    """More than half; masks may be polygons or RLE, and tools round boxes."""
    rle = {"size": [HEIGHT, WIDTH], "counts": [40 * HEIGHT + 30, *[50, HEIGHT - 50] * 59, 50, 0]}
    rle["counts"][-1] = HEIGHT * WIDTH - sum(rle["counts"])
    wrong = [
        as_corners(annotation(20 + n, (11.0 * n, 7.0 * n, 25 + 8 * n, 33 + 6 * n), 1 + n % 2)) for n in range(1, 9)
    ]
    wrong.append(annotation(30, BIG, bbox=[40.6, 29.2, 100.9, 80.4], segmentation=rle))
    report = report_of(tmp_path, *wrong)
    (finding,) = report.errors
    assert (finding.count, len(finding.named)) == (9, 5)
    assert finding.named[0] == "annotation 22: [22, 14, 63, 59] instead of [22, 14, 41, 45]"
    with pytest.raises(DataError, match=r"9 objects with the corners .* subtract x1 from x2 and y1 from y2"):
        report.check()
    few = report_of(tmp_path, *wrong[:8])
    assert few.errors == ()  # eight of sixteen
    assert [finding.count for finding in few.warnings if "corners" in finding.what] == [8]


def test_large_objects_near_the_corner_of_the_image_are_told_by_pixels_too(tmp_path: Path) -> None:
    """As corners and as COCO reads them, their boxes overlap by more than half."""
    wrong = annotation(8, (10, 9, 150, 140), bbox=[10, 9, 160, 149], segmentation=[polygon(10, 9, 150, 140)])
    (warning,) = report_of(tmp_path, wrong).warnings
    assert warning.named == ("annotation 8: [10, 9, 160, 149] instead of [10, 9, 150, 140]",)
    both = annotation(8, (0, 1, 150, 140), segmentation=[polygon(0, 1, 150, 140)])  # the two differ by a pixel
    assert report_of(tmp_path, both).warnings == ()


def test_corners_are_found_without_masks_where_boxes_leave_their_images(tmp_path: Path) -> None:
    boxes = [(120, 90, 50, 40), (100, 100, 60, 30), (110, 30, 70, 50), (5, 5, 20, 20)]
    entries = [annotation(n, box, segmentation=...) for n, box in enumerate(boxes, 1)]

    def report(some: list[dict[str, Any]]) -> DataReport:
        report_of(tmp_path)
        content = json.loads((tmp_path / "set.json").read_text()) | {"annotations": some}
        (tmp_path / "set.json").write_text(json.dumps(content))
        data = CocoDataset(tmp_path / "set.json", tmp_path, training=True, boxes_only=True)
        return analyse(data, PREPROCESSING, (160,))

    assert report(entries).errors == ()
    (finding,) = report([as_corners(entry) for entry in entries]).errors
    assert finding.count == 3  # the fourth fits either way
    assert finding.named[0] == "annotation 1: [120, 90, 170, 130] instead of [120, 90, 50, 40]"


def validated(folder: Path, *images: tuple[str, Path | None], corners: bool = False) -> DataReport:
    """The report of the sound set with a validation set of files, each an image of its own or a copy."""
    report_of(folder)
    (folder / "val").mkdir()
    entries = []
    for number, (name, source) in enumerate(images, 1):
        if source is None:
            Image.new("RGB", (WIDTH, HEIGHT), (7, 8, number)).save(folder / "val" / name)
        else:
            (folder / "val" / name).write_bytes(source.read_bytes())
        entries.append(image(number, file_name=name))
    objects = [annotation(number, BIG, image=number) for number in range(1, len(images) + 1)]
    content = {
        "images": entries,
        "annotations": [as_corners(each) if corners else each for each in objects],
        "categories": [{"id": 1, "name": "bee"}, {"id": 2, "name": "ant"}],
    }
    (folder / "val.json").write_text(json.dumps(content))
    train, val = (
        CocoDataset(folder / "set.json", folder, training=True),
        evaluation_set(folder / "val.json", folder / "val"),
    )
    return analyse(train, PREPROCESSING, (160,), val)


def test_images_that_are_trained_on_and_evaluated_on_are_a_counted_warning(tmp_path: Path) -> None:
    report = validated(tmp_path, ("1.jpg", None), ("copy.jpg", tmp_path / "2.jpg"), ("link.jpg", None))
    (finding,) = report.warnings
    assert str(finding) == (
        "1 image that the validation set has, too: 1 of its 3 images (2.jpg = copy.jpg);"
        " its AP would be of images that were trained on: keep them in one set"
    )
    (tmp_path / "val" / "link.jpg").unlink()
    (tmp_path / "val" / "link.jpg").symlink_to("../1.jpg")
    train = CocoDataset(tmp_path / "set.json", tmp_path, training=True)
    val = evaluation_set(tmp_path / "val.json", tmp_path / "val")
    (finding,) = analyse(train, PREPROCESSING, (160,), val).warnings
    assert finding.named == ("1.jpg = link.jpg", "2.jpg = copy.jpg")
    (finding,) = analyse(train, PREPROCESSING, (160,), train).warnings
    assert str(finding).startswith("2 images that the validation set has, too: 2 of its 2 images (1.jpg, 2.jpg); ")
    with pytest.raises(DataError, match="2 images that the validation set has, too"):
        analyse(train, PREPROCESSING, (160,), train).check(strict=True)


def test_sets_of_different_images_have_no_finding(tmp_path: Path) -> None:
    report = validated(tmp_path, ("1.jpg", None), ("2.jpg", None))  # equal names in another folder
    assert (report.errors, report.warnings) == ((), ())


def test_corners_in_the_validation_set_are_refused_as_such(tmp_path: Path) -> None:
    (finding,) = validated(tmp_path, ("1.jpg", None), corners=True).errors
    assert str(finding).startswith("1 object in the validation set with the corners [x1, y1, x2, y2] as bbox (annot")
