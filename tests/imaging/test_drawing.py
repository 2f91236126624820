"""Overlays and sheets: outlines, scaling, classes' colours."""

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.drawing import OPACITY, DrawingLimits, contact_sheet, draw_masks, overlay
from condinst_deploy.imaging.palette import DARK, PALETTE, colour_of, lightened
from condinst_deploy.masks import Masks

SIDE = 60


def drawn(labels: list[int], ground: int = 0, longest_side: int | None = None) -> npt.NDArray[np.uint8]:
    dense = np.zeros((2, SIDE, SIDE), dtype=np.bool_)
    dense[0, 22:31, 2:11] = dense[1, 42:51, 40:49] = True
    boxes = np.array([(0, 20, 15, 35), (37, 40, 52, 55)], dtype=np.float32)
    image = np.full((SIDE, SIDE, 3), ground, dtype=np.uint8)
    return np.asarray(overlay(image, boxes, ["", ""], Masks.from_dense(dense), labels, longest_side).image)


def blended(label: int) -> list[int]:
    return [int(np.float32(value) * np.float32(OPACITY)) for value in PALETTE[label % len(PALETTE)]]


def test_a_class_has_its_colour() -> None:
    result = drawn([3, len(PALETTE) + 1])
    assert [result[26, 6].tolist(), result[46, 44].tolist()] == [blended(3), blended(1)]
    assert result[33, 0].tolist() == list(PALETTE[3])  # the box's line


@pytest.mark.parametrize("ground", [0, 255, 128])
def test_an_outline_shows_on_any_ground(ground: int) -> None:
    row = drawn([0, 1], ground)[26].astype(int)
    # from left to right: dark line outside the mask, light line inside, tint
    assert row[11].tolist() == list(DARK)
    assert row[10].tolist() == list(lightened(PALETTE[0]))
    assert max(abs(row[11].mean() - ground), abs(row[10].mean() - ground)) > 90


@pytest.mark.parametrize(("longest_side", "factor"), [(180, 3), (30, 0.5), (60, 1), (150, 2.5)])
def test_masks_are_where_they_were_in_a_scaled_image(longest_side: int, factor: float) -> None:
    result = drawn([0, 1], 0, longest_side)
    assert result.shape == (longest_side, longest_side, 3)
    for label, (y, x) in enumerate(((26.5, 6.5), (46.5, 44.5))):
        assert result[int(y * factor), int(x * factor)].tolist() == blended(label)
    dark = (result == DARK).all(axis=2)
    rows = np.flatnonzero(dark[:, int(6.5 * factor)])
    # the lines above and below the mask of rows 22 to 30
    assert np.abs(rows - (22 * factor - 1)).min() <= 1
    assert np.abs(rows - 31 * factor).min() <= 1


def test_a_thin_mask_survives_shrinking() -> None:
    dense = np.zeros((1, 400, 400), dtype=np.bool_)
    dense[0, 201, 20:380] = True
    box, image = np.zeros((1, 4), np.float32), np.zeros((400, 400, 3), np.uint8)
    small = np.asarray(overlay(image, box, [""], Masks.from_dense(dense), longest_side=40).image)
    assert (small[20, 4:36].max(axis=1) > 100).all()


def test_masks_at_the_border_and_empty_ones_are_drawn() -> None:
    dense = np.zeros((3, 20, 30), dtype=np.bool_)
    dense[0] = True
    dense[1, 19, 29] = True
    boxes, image = np.array([[0, 0, 30, 20]] * 3, np.float32), np.zeros((20, 30, 3), np.uint8)
    for side in (None, 7, 91):
        assert np.asarray(
            overlay(image, boxes, ["a", "b", "c"], Masks.from_dense(dense), longest_side=side).image
        ).any()


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(2, 2, 2, 1\) boxes, captions, masks and labels"):
        drawn([0])


def test_a_sheet_leaves_images_that_fit_as_they_are() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, 50, 3), dtype=np.uint8)
    sheet = np.asarray(contact_sheet([Image.fromarray(noise)] * 3, columns=2, side=50))
    assert sheet.shape == (100, 100, 3)
    assert np.array_equal(sheet[:20, 50:], noise)
    assert np.array_equal(sheet[50:70, :50], noise)
    assert (sheet[50:, 50:] == 255).all()
    assert contact_sheet([Image.new("RGB", (200, 100))], side=50).getpixel((25, 24)) == (0, 0, 0)


@pytest.mark.parametrize(("strip", "held"), [(1, 0), (500, 0), (500, 1 << 26)])
@pytest.mark.parametrize("scale", [1.0, 47 / 90, 150 / 90])
def test_masks_drawn_in_strips_are_drawn_the_same(strip: int, held: int, scale: float) -> None:
    rng = np.random.default_rng(7)
    dense = rng.random((3, 90, 70)) > 0.5
    dense[1, :, 20:] = dense[2, :50] = False
    image = rng.integers(0, 256, (round(90 * scale), round(70 * scale), 3), dtype=np.uint8)
    masks, colours = Masks.from_dense(dense), [colour_of(label) for label in range(3)]
    whole, in_strips = image.copy(), image.copy()
    draw_masks(whole, masks, colours, scale, 2)
    draw_masks(in_strips, masks, colours, scale, 2, DrawingLimits(strip, held))
    np.testing.assert_array_equal(in_strips, whole)
    assert not np.array_equal(whole, image)


def test_drawing_full_masks_needs_less_than_twice_the_image() -> None:
    side, count = 1500, 12
    image = np.zeros((side, side, 3), dtype=np.uint8)
    masks = Masks.from_crops(
        (side, side), np.zeros((count, 2), dtype=np.int64), [np.ones((side, side), dtype=np.bool_)] * count
    )
    tracemalloc.start()
    draw_masks(image, masks, [colour_of(0)] * count, 1.0, 4, DrawingLimits(strip=1 << 16, held=0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # a third of an image for a mask, with and without its border, and for its runs
    assert peak < 2 * image.nbytes
