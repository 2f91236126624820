"""Pillow's bilinear resizing as tables of whole numbers, so that a GPU can give Pillow's bytes.

Pillow resizes 8-bit images in two passes. Each pass is a sum of `pixel * coefficient` in 32-bit whole numbers with 22
fractional bits, rounded and clipped to 0..255. The coefficients are normalised in double precision. The source is
`Resample.c` of Pillow; its versions differ in the order of the passes, and the order changes the result by 1 in some
pixels.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import numpy.typing as npt
import PIL

from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.imaging.resize import resized_image

FRACTIONAL_BITS = 22
"""Of a coefficient. A sum of 255 times all coefficients stays below 2 ** 31."""

CoefficientTable = npt.NDArray[np.int32]
"""`(2 + taps, resized)`: the first input pixel of each output pixel, how many it takes, and their coefficients."""


@dataclass(frozen=True)
class ResizeTables:
    """What resizing from one size to another needs besides the image.

    Attributes:
        rows: coefficients along the height.
        columns: coefficients along the width.
        columns_first: the first pass goes along the height, so that it makes columns shorter.
    """

    rows: CoefficientTable
    columns: CoefficientTable
    columns_first: bool


@lru_cache(maxsize=256)
def resize_tables(size: tuple[int, int], resized: tuple[int, int]) -> ResizeTables:
    """Return the tables for an image of `size`; both sizes are `(height, width)`, each side at least 1."""
    rows, columns = (bilinear_coefficients(*sides) for sides in zip(size, resized, strict=True))
    return ResizeTables(rows, columns, columns_first(size, resized, _version_of_pillow()))


@lru_cache(maxsize=256)
def bilinear_coefficients(size: int, resized: int) -> CoefficientTable:
    """Return the coefficients of Pillow's antialiased bilinear filter along one axis.

    Args:
        size: pixels of the input, at least 1.
        resized: pixels of the output, at least 1.

    Returns:
        `(2 + taps, resized)` int32, read-only. Coefficients behind the last input pixel are 0.
    """
    scale = size / resized
    support = max(scale, 1.0)  # of the triangle on either side, in input pixels
    centre = (np.arange(resized) + 0.5) * scale
    # a cast to whole numbers cuts off, as in C
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    count = np.minimum((centre + support + 0.5).astype(np.int64), size) - first
    tap = np.arange(int(count.max()))[:, None]  # (taps, 1)
    weights = np.maximum(1.0 - np.abs((tap + first - centre + 0.5) * (1.0 / support)), 0.0)
    weights = np.where(tap < count, weights, 0.0)
    total = np.zeros(resized)
    for row in weights:  # one after the other, because the order decides about the last bit
        total += row
    normalised = weights / np.where(total == 0, 1.0, total)
    fixed = (0.5 + normalised * (1 << FRACTIONAL_BITS)).astype(np.int32)  # none is below 0
    table = np.concatenate((np.stack((first, count)).astype(np.int32), fixed))
    table.flags.writeable = False
    return table


def columns_first(size: tuple[int, int], resized: tuple[int, int], pillow: tuple[int, int]) -> bool:
    """Return whether a version of Pillow (major, minor) begins with the pass along the height.

    Versions before 12.2 never do. From 12.2 on they do for images more than 100 times as high as wide, from 13 on
    where the height loses more than twice as many pixels as the width.
    """
    (height, width), (resized_height, resized_width) = size, resized
    if resized_height >= height:
        return False
    if pillow >= (13, 0):
        return 2 * (width - resized_width) < height - resized_height
    return pillow >= (12, 2) and height > 100 * width


def resized_by_tables(image: RGBArray, size: tuple[int, int]) -> RGBArray:
    """Resize on the host with the tables; `resized_image` is faster.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        size: `(h, w)` in pixels.
    """
    tables = resize_tables((image.shape[0], image.shape[1]), size)
    passes = [(0, tables.rows), (1, tables.columns)]
    for axis, table in passes if tables.columns_first else passes[::-1]:
        image = _pass(image.swapaxes(0, axis), table).swapaxes(0, axis)
    return image


@cache
def tables_agree_with_pillow() -> bool:
    """Return whether the tables give the bytes of the installed Pillow, for small images of several kinds.

    A version of Pillow that computes in another way must not change results: then Pillow itself resizes.
    """
    random = np.random.default_rng(0)
    sizes = [((24, 31), (40, 52)), ((61, 45), (24, 18)), ((90, 8), (30, 7)), ((30, 90), (9, 27)), ((2, 2), (1, 9))]
    images = [(random.integers(0, 256, (*size, 3), dtype=np.uint8), resized) for size, resized in sizes]
    return all(np.array_equal(resized_by_tables(*each), resized_image(*each)) for each in images)


def _pass(pixels: npt.NDArray[np.uint8], table: CoefficientTable) -> npt.NDArray[np.uint8]:
    """One pass along the first axis: `(n, m, 3)` -> `(resized, m, 3)`."""
    first, _, *coefficients = table
    sums = np.full((table.shape[1], *pixels.shape[1:]), 1 << (FRACTIONAL_BITS - 1), dtype=np.int32)
    for tap, weights in enumerate(coefficients):
        sums += pixels[np.minimum(first + tap, len(pixels) - 1)] * weights[:, None, None]
    pixels = np.minimum(sums >> FRACTIONAL_BITS, 255).astype(np.uint8)
    return pixels


def _version_of_pillow() -> tuple[int, int]:
    major, minor, *_ = PIL.__version__.split(".")
    return int(major), int(minor)
