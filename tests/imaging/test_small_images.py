"""Overlays of images that are small beside the text: the images stay visible."""

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.drawing import LARGEST_MINIMUM, OPACITY, OVERLAY_SIDE, Overlay, enlarged_side, overlay
from condinst_deploy.imaging.labels import MOST_COVERED
from condinst_deploy.imaging.palette import DARK, colour_of
from condinst_deploy.masks import Masks

NAMES = ("traffic light", "person", "dining table", "car", "sports ball", "potted plant", "bicycle", "fire hydrant")
SIZES = [(96, 96), (192, 192), (256, 160), (160, 256), (640, 480)]

Pixels = npt.NDArray[np.uint8]


class Scene:
    """Discs on noise, some over each other."""

    def __init__(self, width: int, height: int, count: int) -> None:
        rng = np.random.default_rng(count)
        self.image: Pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        rows, columns = np.mgrid[:height, :width]
        radii = rng.uniform(0.06, 0.2, (count, 2)) * (height, width)
        centres = rng.uniform(radii, (height, width) - radii)
        self.dense = np.array(
            [
                ((rows - y) / b) ** 2 + ((columns - x) / a) ** 2 <= 1
                for (y, x), (b, a) in zip(centres, radii, strict=True)
            ]
        )
        self.boxes = np.concatenate((centres - radii, centres + radii), axis=1)[:, [1, 0, 3, 2]].astype(np.float32)
        self.labels = [i % len(NAMES) for i in range(count)]
        self.captions = [f"{NAMES[label]} {0.95 - 0.03 * i:.2f}" for i, label in enumerate(self.labels)]

    def drawn(self, longest_side: int | None, captions: list[str] | None = None) -> Overlay:
        masks = Masks.from_dense(self.dense)
        return overlay(self.image, self.boxes, captions or self.captions, masks, self.labels, longest_side)

    def labels_on(self, longest_side: int | None) -> tuple[Pixels, npt.NDArray[np.bool_]]:
        """The overlay without labels `(h, w, 3)`, and where labels cover it, `(h, w)`."""
        plain = np.asarray(self.drawn(longest_side, [""] * len(self.labels)).image)
        return plain, (np.asarray(self.drawn(longest_side).image) != plain).any(axis=2)


@pytest.mark.parametrize("count", [3, 10, 20])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_labels_cover_little_of_an_overlay_file_and_none_is_left_out(width: int, height: int, count: int) -> None:
    scene, side = Scene(width, height, count), enlarged_side(max(width, height), OVERLAY_SIDE)
    assert scene.drawn(side)[1:] == (count, 0)
    plain, covered = scene.labels_on(side)
    assert 0 < covered.mean() < 0.01 * count  # a label takes less than a hundredth of the image
    outlines = (plain == DARK).all(axis=2)
    assert (outlines & ~covered).sum() > 0.7 * outlines.sum()


@pytest.mark.parametrize("count", [3, 10, 20])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_labels_at_an_images_own_size_cover_a_fifth_at_most(width: int, height: int, count: int) -> None:
    scene = Scene(width, height, count)
    _, covered = scene.labels_on(None)
    assert 0 < covered.mean() <= MOST_COVERED == 1 / 5
    _, drawn, unlabelled = scene.drawn(None)
    assert drawn == count
    if (width, height) == (96, 96):
        assert unlabelled == count - 1  # one label has 18 % of the image


@pytest.mark.parametrize(("width", "height"), SIZES[:-1])
def test_an_enlarged_image_has_the_same_pixels_where_nothing_is_drawn(width: int, height: int) -> None:
    scene, side = Scene(width, height, 3), enlarged_side(max(width, height), OVERLAY_SIDE)
    assert side is not None
    factor, remainder = divmod(side, max(width, height))
    assert remainder == 0
    shown = np.asarray(scene.drawn(side).image)
    enlarged = scene.image.repeat(factor, axis=0).repeat(factor, axis=1)
    assert shown.shape == enlarged.shape
    _, covered = scene.labels_on(side)
    masks = scene.dense.repeat(factor, axis=1).repeat(factor, axis=2)
    lines = near_boxes(scene.boxes * factor, enlarged.shape[:2])
    for mask in scene.dense:
        lines |= near_edge(mask).repeat(factor, axis=0).repeat(factor, axis=1)
    blank = ~covered & ~lines
    outside = blank & ~masks.any(axis=0)
    assert outside.mean() > 0.3
    np.testing.assert_array_equal(shown[outside], enlarged[outside])
    for mask, label in zip(masks, scene.labels, strict=True):
        inside = blank & mask & (masks.sum(axis=0) == 1)
        assert inside.any()
        mixed = enlarged[inside] * np.float32(1 - OPACITY) + np.array(colour_of(label), np.float32) * np.float32(
            OPACITY
        )
        np.testing.assert_array_equal(shown[inside], mixed.astype(np.uint8))


def near_boxes(boxes: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """The rows and columns of an image within 4 pixels of a box's sides."""
    near = np.zeros(size, dtype=np.bool_)
    for x1, y1, x2, y2 in boxes.tolist():
        for x, y in ((x1, y1), (x2, y2)):
            near[:, np.abs(np.arange(size[1]) - x) < 4] = True
            near[np.abs(np.arange(size[0]) - y) < 4] = True
    return near


def near_edge(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Pixels one of whose neighbours is on the other side of the mask's outline."""
    padded = np.pad(mask, 1)
    near = np.zeros_like(mask)
    for neighbours in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        near |= neighbours != mask
    return near


def test_a_factor_is_whole_and_the_smallest_that_is_enough() -> None:
    for smallest in (1, 7, OVERLAY_SIDE, LARGEST_MINIMUM):
        for longest in (1, 2, 6, 7, 96, 319, 320, 321, 639, 640, 20_000, LARGEST_MINIMUM, 66_000):
            side = enlarged_side(longest, smallest)
            if longest >= smallest:
                assert side is None
            else:
                assert side is not None
                assert side % longest == 0
                assert smallest <= side < smallest + longest < 2 * LARGEST_MINIMUM


@pytest.mark.parametrize("smallest", [0, -1, LARGEST_MINIMUM + 1, "640", True, float("nan")])
def test_a_smallest_side_is_a_number_in_its_range(smallest: int) -> None:
    with pytest.raises(ConfigError, match=r"min_longest_side is .*; expected a number from 1 to 32750"):
        enlarged_side(100, smallest)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 639), (639, 1), (16, 30)])
def test_a_tiny_image_is_enlarged_whatever_its_shape(width: int, height: int) -> None:
    dense = np.ones((1, height, width), dtype=np.bool_)
    box = np.array([(0, 0, width, height)], dtype=np.float32)
    longest = max(width, height)
    made = overlay(
        np.zeros((height, width, 3), np.uint8),
        box,
        ["a name of a class that is long 0.90"],
        Masks.from_dense(dense),
        longest_side=enlarged_side(longest, OVERLAY_SIDE),
    )
    factor = -(-OVERLAY_SIDE // longest)
    assert isinstance(made.image, Image.Image)
    assert made.image.size == (factor * width, factor * height)
    assert made.drawn == 1
