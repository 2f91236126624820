"""How the kernels that find runs of masks are launched; engines do it through the driver, without PyTorch and Triton.

A crop is the part of one mask that can hold set pixels: a rectangle of probabilities, and the columns of the original
image that lie between them.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

# columns of the table of crops; the first nine come from the caller
PLANE = 0  # image * K + slot
TOP = 1  # logit of the first row of probabilities; may be -1
LEFT = 2
ROWS = 3  # of probabilities
COLUMNS = 4
FIRST_PIXEL = 5  # column of the original
PIXELS = 6  # columns of the original
AXIS = 7  # where the image's columns begin in `ColumnTables`
HEIGHT = 8  # of the original
FIRST_PROBABILITY = 9  # of the crop, in the memory for all
FIRST_TILE = 10  # program of the first kernel
FIRST_COLUMN = 11  # of the crop, in the memory for all
FIRST_STRIP = 12  # program of the second and the last kernel
FIELDS = 13

TILE = 1024
"""Probabilities of a program of the first kernel."""

STRIP = 32
"""Columns of a program of the second and the last kernel: one warp, a thread for each."""

SCAN = 1024
"""Columns that a program of the third kernel takes at once."""


class Limits(NamedTuple):
    """What the kernels take.

    Attributes:
        scratch: bytes of probabilities that are held at once; more go in turns, so that memory does not grow with
            the batch.
        changes: starts and ends of runs of a mask, counted in 32 bits: at most one for each row of probabilities in
            a column.
    """

    scratch: int = 64 << 20
    changes: int = (1 << 31) - 1


LIMITS = Limits()


class ColumnTables(NamedTuple):
    """How columns of pixels of the images are interpolated, one image behind the other."""

    first: npt.NDArray[np.int32]  # (X,) the probability at or before each pixel
    share: npt.NDArray[np.float32]  # (X,) weight of the next probability


class MaskCrops(NamedTuple):
    """Inputs of the kernels about the masks of a batch."""

    crops: IntArray  # (n, 9)
    axes: npt.NDArray[np.float64]  # (n, 3) pixels between two rows of probabilities, pixel of the first, last place
    columns: ColumnTables


class Launch(NamedTuple):
    """Crops of one turn with their places in memory, and how many programs and how much memory they take."""

    table: IntArray  # (n, 13)
    axes: npt.NDArray[np.float64]  # (n, 3)
    probabilities: int
    tiles: int
    columns: int
    strips: int

    @property
    def number(self) -> int:
        """Crops."""
        return len(self.table)


def launches(found: MaskCrops, limits: Limits = LIMITS) -> Iterator[Launch]:
    """All crops in order: as many in a turn as the limit of memory allows, or a single one."""
    sizes = 4 * found.crops[:, ROWS] * found.crops[:, COLUMNS]
    start, size = 0, 0
    for i, more in enumerate(sizes.tolist()):
        if i > start and size + more > limits.scratch:
            yield launch_of_crops(found.crops[start:i], found.axes[start:i])
            start, size = i, 0
        size += more
    if start < len(sizes):
        yield launch_of_crops(found.crops[start:], found.axes[start:])


def launch_of_crops(crops: IntArray, axes: npt.NDArray[np.float64]) -> Launch:
    """Place crops `(n, 9)` one behind the other."""
    probabilities, columns = crops[:, ROWS] * crops[:, COLUMNS], crops[:, PIXELS]
    starts = [_starts(each) for each in (probabilities, -(-probabilities // TILE), columns, -(-columns // STRIP))]
    table = np.column_stack((crops, *(each[:-1] for each in starts)))
    return Launch(table, axes, *(int(each[-1]) for each in starts))


def runs_of_masks(runs: IntArray, totals: npt.NDArray[np.int32]) -> list[IntArray]:
    """Take the runs of several masks apart.

    Args:
        runs: of all masks, one behind the other.
        totals: `(n,)` starts and ends of each mask.
    """
    bounds = _starts(totals).tolist()
    return [runs[start:end] for start, end in pairwise(bounds)]


def run_starts(totals: npt.NDArray[np.int32]) -> IntArray:
    """`(n + 1,)` where the runs of each mask begin, and where all end."""
    return _starts(totals)


def _starts(sizes: npt.NDArray[np.integer]) -> IntArray:
    return np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
