"""Annotation and results files that nobody should write: one line that names file, field and value, and no memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from condinst_deploy.data.annotation_checks import checked_segmentation
from condinst_deploy.errors import DataError
from condinst_deploy.evaluation.ground_truth import load_ground_truth
from condinst_deploy.evaluation.results_reader import read_results
from condinst_deploy.masks.rle import counts_from_runs

TRIANGLE = [[7, 5, 30, 5, 30, 20]]


def content(**annotation: Any) -> dict[str, Any]:
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [7, 5, 23, 15], "iscrowd": 0, "segmentation": TRIANGLE}
    return {
        "images": [{"id": 1, "file_name": "0.png", "height": 48, "width": 64}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [box | annotation],
    }


def changed(place: str, key: str, value: Any) -> dict[str, Any]:
    made = content()
    made[place][0][key] = value
    return made


def refused(folder: Path, made: Any, message: str) -> None:
    (folder / "a.json").write_text(made if isinstance(made, str) else json.dumps(made))
    with pytest.raises(DataError, match=message) as caught:
        load_ground_truth(folder / "a.json", None)
    text = str(caught.value)
    assert "a.json" in text
    assert len(text.splitlines()) == 1
    assert len(text) < 1000
    text.encode()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (changed("images", "width", 2**31 - 1), "image 1 has height 48 and width 2147483647; expected 1 to 65535"),
        (changed("images", "height", 10**4200), "has height a whole number of .* bits"),
        (changed("images", "height", 48.5), "has 'height' 48.5; expected a whole number"),
        (changed("images", "id", 2**64), "image number 1 has id 18446744073709551616; expected a number of 64 bits"),
        (changed("categories", "name", "\ud800"), r"category 1 has 'name' '\\ud800'; expected text that UTF-8"),
        (changed("categories", "name", ["a"] * 10**5), r"has 'name' \['a', 'a'.*expected text"),
        (changed("images", "file_name", "\udcff.png"), "has 'file_name' .*expected text that UTF-8 can encode"),
        (content(bbox=[7, 5, 1e300, 15]), "bbox .* expected four finite numbers"),
        (content(area=1e400), "area"),
        (content(category_id=10**4200), "category_id a whole number of .* bits"),
        (content(segmentation={"size": [48, 64], "counts": "\ud800"}), "damaged RLE"),
        (content(segmentation={"size": [48, 64], "counts": []}), "damaged RLE"),
        (content(segmentation=[[-640, -640, 640, 640] * 20_000]), "outline of .* pixels in an image of 64x48"),
        (content(segmentation=[[-640, -640, 640, 640] * 10] * 2_000), "outline of .* expected at most"),
        ('{"images": ' + "1" * 5000 + "}", "'images': it is a whole number of 16,607 bits; expected a list"),
        (content(area=10**1000), "has area a whole number of .* bits; expected a finite number"),
        (content(ignore="x"), "has ignore 'x'; expected 0 or 1"),
        ("[" * 100_000, "is not JSON"),
        ('{"images": [' + '{"a":' * 50_000, "is not JSON"),
    ],
)
def test_an_annotation_file_is_one_line(made: Any, message: str, tmp_path: Path) -> None:
    refused(tmp_path, made, message)


@pytest.mark.parametrize(
    "runs",
    [
        [2**31 - 1, 2**31 - 1],
        [2**34] * 2,
        [0] * 5 + [48 * 64 + 1],
    ],
)
def test_runs_that_do_not_fit_the_image_are_refused(runs: list[int]) -> None:
    for counts in (runs, _compressed(runs)):
        with pytest.raises(DataError, match="damaged RLE"):
            checked_segmentation({"size": [48, 64], "counts": counts}, (48, 64), "x")


def test_runs_whose_sum_comes_round_past_64_bits_are_refused() -> None:
    pixels = 48 * 64
    # the runs of each kind rise by 2^34 from one to the next, until their sum is 2^64 and the image's pixels
    runs: list[int] = []
    step, total = 2**33, 2**64 + pixels
    rest = total
    while rest > (last := (runs[-2] if len(runs) > 1 else 0) + step):
        runs.append(last)
        rest -= last
    assert rest < 2**63
    assert int(np.array([*runs, rest], dtype=np.uint64).sum(dtype=np.uint64)) == pixels
    with pytest.raises(DataError, match="damaged RLE"):
        checked_segmentation({"size": [48, 64], "counts": _compressed([*runs, rest])}, (48, 64), "x")


def _compressed(runs: list[int]) -> str:
    """pycocotools' text of any run lengths."""
    text = ""
    for i, run in enumerate(runs):
        number, more = run - (runs[i - 2] if i > 2 else 0), True
        while more:
            low, number = number & 31, number >> 5
            more = number != (-1 if low & 16 else 0)
            text += chr(48 + low + 32 * more)
    return text


def test_the_text_of_the_tests_is_that_of_the_format() -> None:
    runs = [5, 100, 7, 2960]
    assert _compressed(runs) == counts_from_runs([np.array([5, 105, 112, 3072])], 48 * 64)[0].decode()
    assert coco_mask.area({"size": [48, 64], "counts": _compressed(runs)}) == 100 + 2960


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e.update(score=10**4200), "score a whole number of .* bits; expected a finite number"),
        (lambda e: e.update(image_id=10**4200), "image_id a whole number of .* bits, which no image"),
        (lambda e: e.update(category_id="\x1b[2J\n"), r"category_id '\\\\x1b\[2J\\\\n'|category_id '\\x1b\[2J\\n'"),
        (lambda e: e.update(bbox=[1, 2, 3, {"a": 1}]), "bbox .* expected four finite numbers"),
        (lambda e: e.update(segmentation={"size": [48, 64], "counts": "\ud800"}), "damaged RLE"),
        (lambda e: e.update(score=float("nan")), "score nan"),
    ],
)
def test_a_results_file_is_one_line(change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content()))
    ground_truth = load_ground_truth(tmp_path / "a.json", None)
    rle = {"size": [48, 64], "counts": [0, 10, 48 * 64 - 10]}
    entry = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [1, 2, 3, 4], "segmentation": rle}
    change(entry)
    (tmp_path / "r.json").write_text(json.dumps([entry]))
    with pytest.raises(DataError, match=message) as caught:
        read_results(tmp_path / "r.json", ground_truth)
    assert "r.json" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("side", [64, 1000])
def test_an_outline_as_fine_as_the_pixels_is_accepted(side: int) -> None:
    comb = [number for x in range(0, side - 1, 2) for number in (x, 0, x, side, x + 1, side, x + 1, 0)]
    (polygon,) = checked_segmentation([comb], (side, side), "x")
    assert len(polygon) == len(comb)
