"""Detections drawn on their image."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.errors import ConfigError, ImageError
from condinst_deploy.imaging.drawing import OPACITY
from condinst_deploy.imaging.palette import PALETTE
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
    # the caption's rows, the box's lines and the mask's own outline are left out
    mask = np.asarray(found.masks)[0]
    inside = mask & (np.mgrid[:HEIGHT, :WIDTH][0] > 20)
    inside[1:-1, 1:-1] &= mask[2:, 1:-1] & mask[:-2, 1:-1] & mask[1:-1, 2:] & mask[1:-1, :-2]
    inside[:, [2, 3, 4, 5, 20, 21, 22]] = False
    mixed = pixels[inside] * np.float32(1 - OPACITY) + np.array(PALETTE[0], np.float32) * np.float32(OPACITY)
    assert inside.sum() > 80
    assert np.array_equal(drawn[inside], mixed.astype(np.uint8))
    differs = (drawn != pixels).any(axis=2)
    assert not differs[37:].any()
    assert not differs[:, 70:].any()


def test_drawing_shows_the_box_and_a_caption_above_it() -> None:
    drawn = np.asarray(detections(1).draw(np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)))
    rows, columns = np.nonzero((drawn == PALETTE[0]).all(axis=2))
    x1, y1, _, y2 = detections(1).boxes[0]
    assert rows.max() == pytest.approx(y2, abs=1)
    assert columns.min() == pytest.approx(x1, abs=1)
    written = np.flatnonzero((drawn[:, 5:40].max(axis=2) < 60).sum(axis=1) > 3)
    assert len(written) >= 5
    assert 0 <= written.min() < y1


def test_classes_have_one_colour_each() -> None:
    found = detections(3)
    same = InstanceDetections(
        found.boxes, found.scores, np.array([2, 0, 2]), found.masks, found.class_names, found.category_ids
    )
    drawn = np.asarray(same.draw(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8))).reshape(-1, 3)
    colours = {tuple(colour) for colour in drawn.tolist()}
    assert {PALETTE[0], PALETTE[2]} <= colours
    assert PALETTE[1] not in colours


def test_an_overlay_is_scaled_before_anything_is_written_on_it() -> None:
    plain, large = detections(1).draw(image()), detections(1).draw(image(), longest_side=900)
    assert large.size == (900, 600)
    # a caption's height does not grow with the factor of 10; its background has rows of 20 pixels and more
    above_box = int(detections(1).boxes[0][1] * 10) - 3
    filled = (np.asarray(large)[:above_box] == PALETTE[0]).all(axis=2).sum(axis=1) > 20
    assert 11 <= filled.sum() < 40
    assert (np.asarray(plain)[: above_box // 10] == PALETTE[0]).all(axis=2).any()
    with pytest.raises(ConfigError, match="longest_side is 0; expected a number from 1 to"):
        detections(1).draw(image(), longest_side=0)


def test_a_small_image_is_enlarged_by_a_whole_factor_on_demand() -> None:
    found = detections(3)
    assert found.draw(image(), min_longest_side=640).size == (8 * WIDTH, 8 * HEIGHT)
    same = found.draw(image(), longest_side=8 * WIDTH)
    assert np.array_equal(np.asarray(found.draw(image(), min_longest_side=640)), np.asarray(same))
    assert np.array_equal(np.asarray(found.draw(image(), min_longest_side=WIDTH)), np.asarray(found.draw(image())))


def test_an_overlay_says_what_is_drawn_and_how_many_labels_are_left_out() -> None:
    found = detections(4)
    image_alone, drawn, unlabelled = found.overlay(image())
    assert np.array_equal(np.asarray(image_alone), np.asarray(found.draw(image())))
    assert (drawn, unlabelled) == (3, 2)  # one label takes 18 % of the image; the fourth detection scores 0.1
    assert found.overlay(image(), min_longest_side=640)[1:] == (3, 0)
    assert found.overlay(image(), score_threshold=1)[1:] == (0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": "0.3"}, "score_threshold is '0.3'; expected a finite number"),
        ({"score_threshold": None}, "score_threshold is None"),
        ({"score_threshold": True}, "score_threshold is True"),
        ({"score_threshold": float("nan")}, "score_threshold is nan"),
        ({"longest_side": "100"}, "longest_side is '100'; expected a number from 1 to 65500"),
        ({"longest_side": 10**9}, "longest_side is 1000000000"),
        ({"min_longest_side": 0}, "min_longest_side is 0; expected a number from 1 to 32750"),
        ({"min_longest_side": "640"}, "min_longest_side is '640'; expected a number"),
        ({"longest_side": 90, "min_longest_side": 640}, "longest_side is 90 and min_longest_side is 640; expected one"),
    ],
)
def test_options_that_are_no_numbers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        detections(1).draw(image(), **options)


def test_numbers_may_be_numpys() -> None:
    drawn = detections(1).draw(image(), score_threshold=np.float32(0.1), longest_side=np.int64(50))  # type: ignore[arg-type]
    assert max(drawn.size) == 50


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
    assert np.array_equal(drawn[59, 85], PALETTE[0])
    second_then_first = np.array(PALETTE[1]) * OPACITY * (1 - OPACITY) + np.array(PALETTE[0]) * OPACITY
    np.testing.assert_allclose(drawn[30, 75].astype(int), second_then_first, atol=1)


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


def test_drawing_on_another_image_is_refused() -> None:
    with pytest.raises(ConfigError, match="the image to draw on is 60x90; expected 90x60"):
        detections(1).draw(np.zeros((WIDTH, HEIGHT, 3), np.uint8))
    with pytest.raises(ConfigError, match="expected 90x60, the image that was predicted on"):
        detections(1).draw(Image.new("RGB", (HEIGHT, WIDTH)))


def test_drawing_on_what_no_predictor_takes_is_refused() -> None:
    with pytest.raises(ImageError, match="an array is float32"):
        detections(1).draw(np.zeros((HEIGHT, WIDTH, 3), np.float32))


def test_drawing_takes_all_that_a_predictor_takes(tmp_path: Path) -> None:
    pixels = image()
    expected = np.asarray(detections(2).draw(pixels))
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    opaque = np.dstack([pixels, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    same: list[Any] = [
        path,
        str(path),
        pixels.astype(np.uint16) * 257,
        opaque,
        torch.from_numpy(pixels).permute(2, 0, 1),
    ]
    for source in same:
        assert np.array_equal(np.asarray(detections(2).draw(source)), expected)


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
