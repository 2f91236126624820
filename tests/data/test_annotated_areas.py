"""Areas that differ from the masks' are a counted warning: COCO's size classes go by them."""

import json
from pathlib import Path
from typing import Any

import pytest

from condinst_deploy.data.annotated_areas import area_finding
from condinst_deploy.data.coco import evaluation_set
from condinst_deploy.evaluation.ground_truth import load_ground_truth
from tests.support.analysed_sets import HEIGHT, WIDTH, annotation, image, polygon

BOX = (40.0, 30.0, 60.0, 50.0)
RLE = {"size": [HEIGHT, WIDTH], "counts": [0, 100, HEIGHT * WIDTH - 100]}
OUTSIDE = (100.0, 30.0, 400.0, 50.0)

AREAS: dict[str, tuple[dict[str, Any], str | None]] = {
    "the mask's": (annotation(1, BOX), None),
    "missing": (annotation(1, BOX, area=...), None),
    "null": (annotation(1, BOX, area=None), None),
    "a little more": (annotation(1, BOX, area=4500), None),
    "few pixels": (annotation(1, (9, 9, 3, 3), area=1), None),
    "zero": (annotation(1, BOX, area=0), "annotation 1: 0 or less"),
    "negative": (annotation(1, BOX, area=-5), "annotation 1: 0 or less"),
    "a share": (annotation(1, BOX, area=0.1), "annotation 1: 0, its mask 3,000 pixels"),
    "too large": (annotation(1, BOX, area=32000), "annotation 1: 32,000, its mask 3,000 pixels"),
    "of an RLE": (annotation(1, (0, 0, 1, 100), segmentation=RLE, area=1), "annotation 1: 1, its mask 100 pixels"),
    "of parts on each other": (annotation(1, BOX, segmentation=[polygon(*BOX)] * 3, area=3000), None),
    "of the part in the image": (annotation(1, OUTSIDE, area=5000), None),
}


@pytest.mark.parametrize(("entry", "expected"), AREAS.values(), ids=AREAS)
def test_an_area_far_from_the_masks_is_named(entry: dict[str, Any], expected: str | None, tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "bee"}]
    content = {"images": [image(1)], "annotations": [entry, annotation(2, BOX)], "categories": categories}
    path = tmp_path / "set.json"
    path.write_text(json.dumps(content))
    finding = area_finding(evaluation_set(path, None))
    assert finding.named == (() if expected is None else (expected,))
    notes = load_ground_truth(path, None).notes
    assert [note.startswith("warning: 1 object whose area is not its mask's (") for note in notes] == [True][
        : finding.count
    ]
