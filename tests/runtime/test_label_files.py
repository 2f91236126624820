"""Label files give back the masks that they were made from."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.imaging.encode import write_png
from condinst_deploy.masks import Masks
from condinst_deploy.runtime.label_files import (
    cut_outs,
    instance_image,
    joined_polygons,
    labelme_content,
    write_labelme,
    yolo_text,
)

HEIGHT, WIDTH = 50, 70


def detections() -> InstanceDetections:
    """A square with a hole, two discs in one mask, and a mask without pixels."""
    dense = np.zeros((3, HEIGHT, WIDTH), dtype=np.bool_)
    dense[0, 5:30, 5:30] = True
    dense[0, 12:20, 12:20] = False
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    dense[1] = ((y - 35) ** 2 + (x - 40) ** 2 <= 64) | ((y - 10) ** 2 + (x - 60) ** 2 <= 36)
    return InstanceDetections(
        boxes=np.tile(np.array([0, 0, 10, 10], dtype=np.float32), (3, 1)),
        scores=np.array([0.9, 0.8, 0.7], dtype=np.float32),
        labels=np.array([1, 0, 1]),
        masks=Masks.from_dense(dense),
        class_names=("cat", "dog"),
        category_ids=(3, 7),
    )


def filled(points: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Pixels whose centres are inside by the even-odd rule, by counting crossings of the way to the left."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    inside = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y1 != y2:
            crosses = ((y1 > y) != (y2 > y)) & (x > (x2 - x1) * (y - y1) / (y2 - y1) + x1)
            inside ^= crosses
    return inside


def test_joined_polygons_fill_exactly_the_mask() -> None:
    found = detections()
    square, discs, nothing = joined_polygons(found, 0)
    assert nothing is None
    for i, polygon in enumerate((square, discs)):
        assert polygon is not None
        assert np.array_equal(filled(polygon[:-1].astype(np.float64)), np.asarray(found.masks)[i])


def test_a_yolo_file_has_a_line_for_each_mask_in_shares_of_the_image() -> None:
    found = detections()
    lines = yolo_text(found, 0).splitlines()
    assert [line.split()[0] for line in lines] == ["1", "0"]
    for i, line in enumerate(lines):
        points = np.array(line.split()[1:], dtype=np.float64).reshape(-1, 2)
        assert 0 <= points.min() <= points.max() <= 1
        # six digits: the points of a polygon are halves of pixels
        exact = (points * (WIDTH, HEIGHT) * 2).round() / 2
        assert np.array_equal(filled(exact), np.asarray(found.masks)[i])
    assert len(yolo_text(found, 1.0)) < len(yolo_text(found, 0))


def test_a_labelme_file_has_polygons_and_the_images_place(tmp_path: Path) -> None:
    write_labelme(tmp_path / "a.json", detections(), "../pictures/a.png")
    content = json.loads((tmp_path / "a.json").read_text())
    assert content == labelme_content(detections(), "../pictures/a.png")
    assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (HEIGHT, WIDTH, None)
    assert [(shape["label"], shape["shape_type"]) for shape in content["shapes"]] == [
        ("dog", "polygon"),
        ("cat", "polygon"),
    ]


def test_an_image_of_instances_counts_from_one_and_has_the_best_on_top() -> None:
    found = detections()
    image = instance_image(found)
    assert image.dtype == np.uint16
    assert np.array_equal(image == 1, np.asarray(found.masks)[0])
    assert np.array_equal(image == 2, np.asarray(found.masks)[1] & ~np.asarray(found.masks)[0])


def test_cut_outs_are_clear_outside_the_mask(tmp_path: Path) -> None:
    found = detections()
    image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    pieces = dict(cut_outs(found, image))
    assert sorted(pieces) == [1, 2]
    pixels = pieces[1]
    assert pixels.shape == (25, 25, 4)
    assert np.array_equal(pixels[..., 3] == 255, np.asarray(found.masks)[0][5:30, 5:30])
    assert np.array_equal(pixels[..., :3], image[5:30, 5:30])
    write_png(tmp_path / "deep" / "1.png", pixels)
    write_png(tmp_path / "k.png", instance_image(found))
    with Image.open(tmp_path / "deep" / "1.png") as one, Image.open(tmp_path / "k.png") as other:
        assert np.array_equal(np.asarray(one), pixels)
        assert np.array_equal(np.asarray(other), instance_image(found))


@pytest.mark.parametrize("tolerance", [0.0, 0.5])
def test_polygons_give_nearly_the_area_of_the_mask(tolerance: float) -> None:
    found = detections()
    for i, rings in enumerate(found.masks.polygons(tolerance)[:1]):
        outer = max(rings, key=len)
        area = coco_mask.area(coco_mask.frPyObjects([outer.ravel().astype(float).tolist()], HEIGHT, WIDTH))[0]
        assert area == pytest.approx(25 * 25, rel=0.1), i
