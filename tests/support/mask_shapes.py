"""Small masks of many shapes, strategies for any mask, and what pycocotools and geometry say of them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from condinst_deploy.masks import Masks, trimmed_crop

Bool = npt.NDArray[np.bool_]


def empty(height: int, width: int) -> Bool:
    return np.zeros((height, width), dtype=np.bool_)


def with_true(height: int, width: int, *pixels: tuple[Any, Any]) -> Bool:
    mask = empty(height, width)
    for y, x in pixels:
        mask[y, x] = True
    return mask


def ring(height: int, width: int, thickness: int = 1) -> Bool:
    mask = np.ones((height, width), dtype=np.bool_)
    mask[thickness:-thickness, thickness:-thickness] = False
    return mask


def checkerboard(height: int, width: int) -> Bool:
    board: Bool = np.indices((height, width)).sum(axis=0) % 2 == 0
    return board


def disc(height: int, width: int) -> Bool:
    y, x = np.ogrid[:height, :width]
    inside: Bool = (y - height * 0.4) ** 2 + (x - width * 0.6) ** 2 < (0.3 * min(height, width)) ** 2
    return inside


ALL = slice(None)
DENSE: dict[str, Bool] = {
    "empty": empty(7, 5),
    "full": ~empty(7, 5),
    "one pixel image, empty": empty(1, 1),
    "one pixel image, full": ~empty(1, 1),
    "pixel at the top left": with_true(7, 5, (0, 0)),
    "pixel at the top right": with_true(7, 5, (0, -1)),
    "pixel at the bottom left": with_true(7, 5, (-1, 0)),
    "pixel at the bottom right": with_true(7, 5, (-1, -1)),
    "all corners": with_true(7, 5, (0, 0), (0, -1), (-1, 0), (-1, -1)),
    "top border": with_true(7, 5, (0, ALL)),
    "bottom border": with_true(7, 5, (-1, ALL)),
    "left border": with_true(7, 5, (ALL, 0)),
    "right border": with_true(7, 5, (ALL, -1)),
    "all borders": ring(7, 5),
    "inside, touching nothing": with_true(7, 5, (slice(2, 5), slice(1, 4))),
    "runs that join across two columns": with_true(7, 5, (slice(4, 7), 1), (slice(0, 2), 2)),
    "runs that join across three columns": with_true(7, 5, (slice(4, 7), 1), (ALL, 2), (slice(0, 2), 3)),
    "runs that join twice": with_true(7, 6, (-1, 0), (0, 1), (-1, 3), (0, 4)),
    "a column's end and not the next one's start": with_true(7, 5, (-1, 1), (1, 2)),
    "all but the first pixel": ~with_true(7, 5, (0, 0)),
    "all but the last pixel": ~with_true(7, 5, (-1, -1)),
    "specks": with_true(9, 9, (0, 4), (2, 2), (4, 0), (4, 8), (6, 5), (8, 1)),
    "diagonal": np.eye(6, 8, dtype=np.bool_),
    "checkerboard": checkerboard(7, 6),
    "one row, full": ~empty(1, 9),
    "one row, specks": checkerboard(1, 9),
    "one row, last": with_true(1, 9, (0, -1)),
    "one column, full": ~empty(9, 1),
    "one column, specks": checkerboard(9, 1),
    "one column, last": with_true(9, 1, (-1, 0)),
    "ring with an island": ring(9, 11, 2) | with_true(9, 11, (4, 5)),
    "disc": disc(60, 80),
    "holed disc": disc(60, 80) & ~disc(60, 80)[::-1],
    "long runs": with_true(1500, 1200, (ALL, slice(100, 1100))),
}
NAMES = sorted(DENSE)


@st.composite
def dense_masks(draw: st.DrawFn) -> Bool:
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return np.array(bits, dtype=np.bool_).reshape(height, width)


@st.composite
def untrimmed(draw: st.DrawFn) -> tuple[Bool, Masks]:
    """A dense mask, and the same as a crop with empty borders of any size."""
    dense = draw(dense_masks())
    (y, x), crop = trimmed_crop(dense)
    height, width = dense.shape
    top, left = draw(st.integers(0, y)), draw(st.integers(0, x))
    bottom = draw(st.integers(y + crop.shape[0], height))
    right = draw(st.integers(x + crop.shape[1], width))
    return dense, Masks.from_crops((height, width), np.array([[top, left]]), [dense[top:bottom, left:right]])


def coco_rle(dense: Bool) -> dict[str, Any]:
    rle: dict[str, Any] = coco_mask.encode(np.asfortranarray(dense.astype(np.uint8)))
    return rle


def inside_even_odd(polygons: Sequence[npt.NDArray[np.float32]], height: int, width: int) -> Bool:
    """Return whether a ray from each pixel's centre to the right crosses the outlines an odd number of times."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = empty(height, width)
    for polygon in polygons:
        for (x1, y1), (x2, y2) in pairwise(polygon.astype(np.float64)):
            if y1 != y2:
                crossed = (y1 <= y) != (y2 <= y)
                inside ^= crossed & (x1 + (y - y1) * (x2 - x1) / (y2 - y1) > x)
    return inside


def random_masks(seed: int = 0, count: int = 6, height: int = 13, width: int = 17) -> Bool:
    """Blotches of all sizes, the third one empty."""
    rng = np.random.default_rng(seed)
    dense = rng.random((count, height, width)) < np.linspace(0.1, 0.9, count)[:, None, None]
    dense[2:3] = False
    return dense
