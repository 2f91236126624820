"""Detections drawn on their image."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.drawing import PALETTE
from condinst_deploy.masks import Masks
from tests.support.discs import HEIGHT, WIDTH, detections
from tests.support.models import noise_image


def image() -> npt.NDArray[np.uint8]:
    return noise_image(5, HEIGHT, WIDTH)


def test_drawing_colours_the_mask_and_leaves_the_rest() -> None:
    found = detections(1)
    pixels = image()
    drawn = np.asarray(found.draw(pixels))
    assert drawn.shape == pixels.shape
    # rows of the caption and the box's outline are left out
    inside = np.asarray(found.masks)[0] & (np.mgrid[:HEIGHT, :WIDTH][0] > 18)
    inside[:, [3, 4, 21]] = False
    blend = (pixels[inside] * np.float32(0.5) + np.array(PALETTE[0], np.float32) * np.float32(0.5)).astype(np.uint8)
    assert inside.sum() > 100
    assert np.array_equal(drawn[inside], blend)
    differs = (drawn != pixels).any(axis=2)
    assert not differs[36:].any()
    assert not differs[:, 60:].any()


def test_drawing_shows_the_box_and_a_caption_above_it() -> None:
    drawn = np.asarray(detections(1).draw(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)))
    rows, columns = np.nonzero((drawn == PALETTE[0]).all(axis=2))
    x1, y1, _, y2 = detections(1).boxes[0]
    assert rows.max() == pytest.approx(y2, abs=1)
    assert columns.min() == pytest.approx(x1, abs=1)
    white = np.flatnonzero((drawn.min(axis=2) > 200).any(axis=1))
    assert len(white) >= 5
    assert y1 - 13 < white.min() <= white.max() < y1


def test_drawing_leaves_the_image_itself_alone() -> None:
    pixels = image()
    detections(4).draw(pixels)
    assert np.array_equal(pixels, image())


def test_best_detection_is_drawn_on_top() -> None:
    both = InstanceDetections(
        boxes=np.array([[0, 0, 89, 59]] * 2, dtype=np.float32),
        scores=np.array([0.9, 0.5], dtype=np.float32),
        labels=np.array([0, 1]),
        masks=Masks.from_dense(np.ones((2, HEIGHT, WIDTH))),
        class_names=("cat", "dog"),
        category_ids=(1, 2),
    )
    blank = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    drawn = np.asarray(both.draw(blank))
    red, green, blue = PALETTE[0]
    assert np.array_equal(drawn[59, 40], (red, green, blue))
    second_then_first = np.array(PALETTE[1]) // 2 // 2 + np.array(PALETTE[0]) // 2
    np.testing.assert_allclose(drawn[40, 40].astype(int), second_then_first, atol=1)


def test_drawing_nothing_gives_an_equal_image() -> None:
    assert np.array_equal(np.asarray(detections(0).draw(image())), image())


def test_drawing_on_a_pil_image_is_drawing_on_its_pixels() -> None:
    found = detections(4)
    drawn = found.draw(Image.fromarray(image()))
    assert isinstance(drawn, Image.Image)
    assert drawn.size == (WIDTH, HEIGHT)
    assert drawn.mode == "RGB"
    assert np.array_equal(np.asarray(drawn), np.asarray(found.draw(image())))


def test_drawing_on_a_grey_pil_image_is_drawing_on_rgb() -> None:
    grey = Image.fromarray(image()).convert("L")
    expected = detections(2).draw(np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    assert np.array_equal(np.asarray(detections(2).draw(grey)), np.asarray(expected))


def test_drawing_takes_a_read_only_image() -> None:
    pixels = image()
    pixels.flags.writeable = False
    assert np.asarray(detections(1).draw(pixels)).any()


def test_drawing_on_one_pixel() -> None:
    speck = InstanceDetections(
        boxes=np.array([[0, 0, 1, 1]], dtype=np.float32),
        scores=np.ones(1, dtype=np.float32),
        labels=np.zeros(1, dtype=np.int64),
        masks=Masks.from_dense(np.ones((1, 1, 1))),
        class_names=("cat",),
        category_ids=(1,),
    )
    assert speck.draw(np.zeros((1, 1, 3), dtype=np.uint8)).size == (1, 1)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((WIDTH, HEIGHT, 3), np.uint8),
        np.zeros((HEIGHT, WIDTH, 4), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.float32),
        np.zeros((HEIGHT, WIDTH, 3), np.uint16),
    ],
    ids=lambda pixels: f"{pixels.dtype} {pixels.shape}",
)
def test_drawing_on_another_image_is_refused(pixels: npt.NDArray[Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected uint8 \(60, 90, 3\), the image that was predicted on"):
        detections(1).draw(pixels)


def test_drawing_on_a_pil_image_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"uint8 \(90, 60, 3\)"):
        detections(1).draw(Image.new("RGB", (HEIGHT, WIDTH)))


def test_a_grey_or_rotated_image_that_was_predicted_on_can_be_drawn_on() -> None:
    found = InstanceDetections(
        boxes=np.array([[1, 1, 5, 4]], dtype=np.float32),
        scores=np.array([0.9], dtype=np.float32),
        labels=np.array([0]),
        masks=Masks.from_dense(np.ones((1, 6, 8), dtype=np.uint8)),
        class_names=("cat",),
        category_ids=(1,),
    )
    assert found.draw(np.zeros((6, 8), dtype=np.uint8)).size == (8, 6)
    sideways = Image.new("L", (6, 8))
    sideways.getexif()[0x0112] = 6
    assert found.draw(sideways).size == (8, 6)
    assert np.asarray(found.draw(np.zeros((6, 8, 3), dtype=np.uint8), score_threshold=0.95)).max() == 0
    assert repr(found) == "InstanceDetections(1 in 8x6: cat 0.90)"
    assert repr(found.masks) == "Masks(1 in 8x6)"


@pytest.mark.parametrize(
    ("image", "shown"),
    [
        (Image.fromarray(np.full((6, 8), 40000, dtype=np.uint16)), round(40000 / 257)),
        (Image.new("RGBA", (8, 6), (10, 20, 30, 0)), 255),
        (Image.new("LA", (8, 6), (10, 0)), 255),
        (Image.new("1", (8, 6), 1), 255),
    ],
    ids=lambda value: getattr(value, "mode", None),
)
def test_a_pil_image_is_drawn_on_as_the_network_sees_it(image: Image.Image, shown: int) -> None:
    nothing = InstanceDetections(
        boxes=np.zeros((0, 4), dtype=np.float32),
        scores=np.zeros(0, dtype=np.float32),
        labels=np.zeros(0, dtype=np.int64),
        masks=Masks.from_dense(np.zeros((0, 6, 8))),
        class_names=("cat",),
        category_ids=(1,),
    )
    assert np.unique(np.asarray(nothing.draw(image))).tolist() == [shown]
