"""Findings in a training set: each kind with its annotation or image, and none in a sound set."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from condinst_deploy.data.analysis import analyse
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.errors import DataError
from tests.support.analysed_sets import BIG, HEIGHT, PREPROCESSING, SOUND, WIDTH, annotation, image, polygon, report_of


def test_a_sound_set_has_a_table_and_nothing_else(tmp_path: Path) -> None:
    report = report_of(tmp_path)
    assert (report.errors, report.warnings, report.notes) == ((), (), ())
    assert (report.images, report.listed, report.objects) == (2, 2, 8)
    bee, ant = report.classes
    areas = [each["area"] for each in SOUND]
    assert (bee.name, bee.images, bee.objects) == ("bee", 2, 7)
    assert bee.small == sum(area < 1024 for area in areas)
    assert bee.medium == sum(1024 <= area < 9216 for area in areas)
    assert (ant.images, ant.objects, ant.medium) == (1, 1, 1)
    report.check(strict=True)
    assert json.loads(json.dumps(report.to_dict()))["classes"][1]["name"] == "ant"
    lines = report.text().splitlines()
    assert lines[0] == f"{tmp_path / 'set.json'}: 2 of 2 images, 8 objects to learn"
    assert lines[1].split() == ["class", "images", "objects", "small", "medium", "large"]
    assert len({len(line) for line in lines[1:]}) == 1
    assert len(lines) == 4


NORMALISED = polygon(0.1, 0.2, 0.5, 0.6)
CIRCLE = {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}

AROUND = [-20, -20, -10, -20, -10, 300, 300, 300, 300, 310, -20, 310]  # an L to the left of the image and below it
ERRORS = {
    "numbers in 0..1": (annotation(8, BIG, segmentation=[NORMALISED]), "object whose numbers all lie in 0..1"),
    "numbers a little beyond 0..1": (
        annotation(8, BIG, segmentation=[polygon(-0.01, 0.5, 0.4, 0.53)]),
        "object whose numbers all lie in 0..1",
    ),
    "outside": (annotation(8, BIG, segmentation=[polygon(300, 20, 40, 40)]), "polygons lie outside their image"),
    "around the image": (
        annotation(8, (-20, -20, 320, 330), segmentation=[AROUND]),
        "polygons lie outside their image",
    ),
}


@pytest.mark.parametrize(("wrong", "what"), ERRORS.values(), ids=ERRORS)
def test_what_cannot_be_right_is_refused_with_the_annotations_id(
    wrong: dict[str, Any], what: str, tmp_path: Path
) -> None:
    report = report_of(tmp_path, wrong)
    (finding,) = report.errors
    assert (finding.count, finding.named) == (1, ("annotation 8",))
    assert what in str(finding)
    assert report.warnings == ()  # one finding for an object: it has no pixels to learn, either
    with pytest.raises(DataError, match=rf"cannot be trained on: 1 .*{what} \(annotation 8\)"):
        report.check()


ODD = {
    "leaves the image": (annotation(8, (150, 100, 60, 40)), "polygons leave their image"),
    "twice": (annotation(8, SOUND[0]["bbox"], image=2), "same class, box and mask"),
    "twice, from another corner": (
        annotation(8, SOUND[0]["bbox"], image=2, segmentation=[np.roll(SOUND[0]["segmentation"][0], 2).tolist()]),
        "same class, box and mask",
    ),
    "twice, as two classes": (annotation(8, SOUND[0]["bbox"], image=2, category_id=2), "mask but another class"),
    "one part outside": (
        annotation(8, BIG, segmentation=[polygon(*BIG), polygon(500, 20, 90, 90)]),
        "polygons leave their image",
    ),
    "no pixels": (annotation(8, BIG, segmentation={"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}), "no pixels"),
    "six numbers on a line": (annotation(8, BIG, segmentation=[[40, 30, 70, 55, 100, 80]]), "no pixels"),
    "box drawn to the left": (annotation(8, (100, 80, -60, -50)), "with a negative width or height"),
    "too small": (annotation(8, (50, 50, 1.5, 1.5)), "no pyramid level can learn"),
    "corners as a box": (annotation(8, BIG, bbox=[40, 30, 100, 80]), "with the corners [x1, y1, x2, y2] as bbox"),
    "another box": (annotation(8, BIG, bbox=[60, 40, 25, 25]), "box is not their mask's"),
    "below one pixel": (annotation(8, (50, 50, 0.5, 20)), "left out: below one pixel"),
    "in the first pixel": (annotation(8, (0.1, 0.2, 0.5, 0.6)), "within the first pixel"),
    "beside the image": (annotation(8, (WIDTH, 50, 20, 20)), "left out: outside its image"),
    "without area": (annotation(8, BIG, area=0), "left out: without area"),
    "a line": (annotation(8, BIG, segmentation=[[1, 2, 3, 4]]), "left out: polygons without area"),
    "a line beside a polygon": (
        annotation(8, BIG, segmentation=[polygon(*BIG), [1, 2, 3, 4], []]),
        "polygons left out of objects with others",
    ),
}


@pytest.mark.parametrize(("odd", "what"), ODD.values(), ids=ODD)
def test_what_is_odd_is_a_counted_warning_that_strict_refuses(odd: dict[str, Any], what: str, tmp_path: Path) -> None:
    report = report_of(tmp_path, odd)
    assert report.errors == ()
    (finding,) = report.warnings
    assert what in str(finding)
    assert finding.count == (2 if "with others" in what else 1)  # a line, and nothing
    assert f"warning: {finding}" in report.text()
    report.check()
    with pytest.raises(DataError, match=re.escape(what)):
        report.check(strict=True)


def test_crowds_ignored_objects_and_empty_images_are_notes(tmp_path: Path) -> None:
    crowd = annotation(8, BIG, iscrowd=1, segmentation=CIRCLE)
    report = report_of(tmp_path, crowd, annotation(9, BIG, ignore=1), images=[image(n) for n in (1, 2, 3, 4)])
    assert (report.errors, report.warnings) == ((), ())
    assert [str(note) for note in report.notes] == [
        "2 images left out: without objects to learn (3.jpg, 4.jpg); data.keep_empty = true keeps them",
        "1 annotation left out: crowd",
        "1 annotation left out: marked ignore",
    ]
    assert (report.images, report.listed) == (2, 4)
    report.check(strict=True)


def test_small_images_classes_without_objects_and_files_listed_twice_are_warnings(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "small.jpg")
    images = [image(1), image(2), image(3, file_name="small.jpg", width=20, height=20), image(4, file_name="1.jpg")]
    objects = [annotation(8, (1, 1, 9, 9), image=3), annotation(9, BIG, image=4)]
    report = report_of(tmp_path, *objects, images=images)
    assert {finding.what: finding.named for finding in report.warnings} == {
        "listed as several images": ("images 1, 4: 1.jpg",),
        "left out: a side is below 32 pixels": ("small.jpg",),
    }


def test_copies_of_a_file_under_other_names_are_warnings(tmp_path: Path) -> None:
    report_of(tmp_path)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes((tmp_path / "1.jpg").read_bytes())
    (tmp_path / "link.jpg").symlink_to(tmp_path / "2.jpg")  # the same file, not a copy
    files = {3: "a.jpg", 4: "b.jpg", 5: "link.jpg"}
    listed = [image(1), image(2), *(image(n, file_name=name) for n, name in files.items())]
    others = [annotation(n, (20, 20, 60, 70), image=n - 197) for n in (200, 201, 202)]
    report = report_of(tmp_path, *others, images=listed)
    assert [str(warning) for warning in report.warnings] == [
        "1 file listed as several images (images 2, 5: 2.jpg)",
        "1 file with the same bytes under other names (images 1, 3, 4: 1.jpg, a.jpg, b.jpg);"
        " a copy is trained on as one more image",
    ]


@pytest.mark.parametrize("way", ["with dots", "symbolic link", "hard link", "absolute"])
def test_a_file_is_the_same_under_all_its_names(way: str, tmp_path: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT), "grey").save(tmp_path / "1.jpg")
    (tmp_path / "sub").mkdir()
    name = {"with dots": "sub/../1.jpg", "absolute": str(tmp_path / "1.jpg")}.get(way, "3.jpg")
    if way == "symbolic link":
        (tmp_path / name).symlink_to("1.jpg")
    if way == "hard link":
        (tmp_path / name).hardlink_to(tmp_path / "1.jpg")
    report = report_of(tmp_path, annotation(9, BIG, image=3), images=[image(1), image(2), image(3, file_name=name)])
    assert [str(warning) for warning in report.warnings] == ["1 file listed as several images (images 1, 3: 1.jpg)"]


def test_one_region_of_another_shape_is_no_repetition(tmp_path: Path) -> None:
    """A square, and a diamond in it: extents and centres agree."""
    diamond = [70, 30, 100, 60, 70, 90, 40, 60]
    square, other = annotation(8, (40, 30, 60, 60)), annotation(9, (40, 30, 60, 60), segmentation=[diamond])
    assert report_of(tmp_path, square, other).warnings == ()


def named(folder: Path, *names: str) -> list[str]:
    """The warnings about classes of these names, which all have an object."""
    report_of(folder)
    path = folder / "set.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    for number in range(3, len(names) + 1):
        content["annotations"].append(annotation(200 + number, (20.0 * number, 5, 30, 40), category_id=number))
    path.write_text(json.dumps(content))
    return [
        str(warning) for warning in analyse(CocoDataset(path, folder, training=True), PREPROCESSING, (160,)).warnings
    ]


def test_class_names_that_cannot_be_told_apart_are_warnings(tmp_path: Path) -> None:
    assert named(tmp_path, "bee", "ant", "bee") == ["1 class name that several classes have (bee)"]
    assert named(tmp_path, "bee", "Bee", " bee ") == ["1 class name in several spellings (' bee ' / Bee / bee)"]
    assert named(tmp_path, "caf\u00e9", "cafe\u0301") == ["1 class name in several spellings (cafe\u0301 / caf\u00e9)"]
    assert named(tmp_path, "bee", "", " ") == ["2 classes without a name (category 2, category 3)"]
    assert named(tmp_path, "bee", "bees", "be e") == []


def test_columns_stand_below_each_other_with_names_of_wide_characters(tmp_path: Path) -> None:
    from rich.cells import cell_len

    named(tmp_path, "蜜蜂", "cafe\u0301", "a")
    data = CocoDataset(tmp_path / "set.json", tmp_path, training=True)
    table = analyse(data, PREPROCESSING, (160,)).text().splitlines()[1:5]
    assert len({cell_len(line) for line in table}) == 1


def test_a_normalised_set_is_refused_with_or_without_objects_to_learn(tmp_path: Path) -> None:
    few = [annotation(8 + n, (0.1, 0.1, 0.5, 0.5), image=2) for n in range(20)]
    report = report_of(tmp_path, *few)
    assert [(error.count, error.named[0]) for error in report.errors] == [(20, "annotation 8")]
    path = tmp_path / "set.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": few}))
    with pytest.raises(DataError, match=r"20 within the first pixel \(annotation 8, \.\.\.\); .* are pixels, not 0..1"):
        CocoDataset(path, tmp_path, training=True)


def test_text_from_the_file_is_escaped_and_cut(tmp_path: Path) -> None:
    name = "\x1b[31mred\nline" + "x" * 200
    images = [image(1), image(2), image(3, file_name="3.jpg")]
    report = report_of(tmp_path, images=images)
    path = tmp_path / "set.json"
    content = json.loads(path.read_text())
    content["categories"][0]["name"] = name
    path.write_text(json.dumps(content))
    report = analyse(CocoDataset(path, tmp_path, training=True), PREPROCESSING, (160,))
    (line,) = (line for line in report.text().split("\n") if "red" in line)
    assert line.startswith("\\x1b[31mred\\nlinexxx")
    assert max(len(line) for line in report.text().split("\n")) < 140
