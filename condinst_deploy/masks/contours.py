"""Outlines of a mask, traced from its runs: no pixel is made, and work grows with the outline's length.

A pixel's side with the mask on one side of it and none on the other is a border. It leads from a corner of the pixel
grid to the next one, the mask on its left. Borders along x lie where a column's runs start and end, those along y
where a column differs from the one before it. An outline goes through the borders' middles; where two pixels
of the mask touch at a corner only, it turns left and stays on the same part.
"""

from array import array
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Polygon = npt.NDArray[np.float32]


class _Borders(NamedTuple):
    """Sides of pixels, by the corner that they leave; corner (x, y) has the number `x * stride + y`."""

    origin: Int64  # (m,) rising
    step: Int64  # (m,) to the corner at the other end: 1 or -1 along y, stride or -stride along x


def outlines(runs: Int64, height: int) -> list[Polygon]:
    """Closed polygons around a mask's parts and holes.

    Args:
        runs: `(2m,)` rising starts and ends of the mask's runs, numbers `x * height + y` of pixels.
        height: the image's.

    Returns:
        `(k, 2)` float32 `(x, y)` each, the last point being the first, through the middles between the centres of
        a pixel of the mask and one beside it that is not; the centre of pixel `(0, 0)` is at `(0.5, 0.5)`.
    """
    if len(runs) == 0:
        return []
    stride = height + 1  # an image has a corner more than pixels
    borders = _borders(_runs_of_columns(runs, height), stride)
    return [_polygon(borders, cycle, stride) for cycle in _cycles(_following(borders))]


def _runs_of_columns(runs: Int64, height: int) -> Int64:
    """`runs` cut where columns end, as numbers `x * (height + 1) + y`: none goes on in the next column."""
    starts, ends = runs[::2], runs[1::2]
    first, last = starts // height, (ends - 1) // height
    pieces = last - first + 1
    x = _counted(first, pieces)
    tops = np.maximum(np.repeat(starts, pieces), x * height)
    bottoms = np.minimum(np.repeat(ends, pieces), (x + 1) * height)
    return np.stack((tops + x, bottoms + x), axis=1).ravel()


def _borders(runs: Int64, stride: int) -> _Borders:
    tops, bottoms = runs[::2], runs[1::2]
    left, right = _sides(runs, stride)  # y falls along the left side and rises along the right one
    groups = ((tops, stride), (bottoms + stride, -stride), (left + 1, -1), (right, 1))
    origin = np.concatenate([corners for corners, _ in groups])
    step = np.repeat([step for _, step in groups], [len(corners) for corners, _ in groups])
    order = np.argsort(2 * origin + (step < 0))
    return _Borders(origin[order], step[order])


def _sides(runs: Int64, stride: int) -> tuple[Int64, Int64]:
    """Upper corners of the sides that have the mask on their right only, and on their left only."""
    changes = np.concatenate((runs, runs + stride))  # of a pixel, and of the one in the column before it
    by = np.tile([1, -1], len(runs) // 2)
    order = np.argsort(changes, kind="stable")
    changes = changes[order]
    more = np.cumsum(np.concatenate((by, -by))[order])[:-1]  # 1: only the pixel, -1: only the one before it
    lengths = np.diff(changes)
    left, right = (_counted(changes[:-1][more == kind], lengths[more == kind]) for kind in (1, -1))
    return left, right


def _counted(starts: Int64, lengths: Int64) -> Int64:
    """`lengths` numbers from each of `starts` on."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def _following(borders: _Borders) -> Int64:
    """`(m,)` the border that goes on where each ends."""
    origin, step = borders
    target = origin + step
    following: Int64 = np.searchsorted(origin, target)
    # where two pixels touch at a corner, two borders leave it in opposite directions, the rising one first
    two = origin.take(following + 1, mode="clip") == target
    two &= following + 1 < len(origin)
    # left of rising x is rising y, but left of rising y is falling x
    falls = (step < 0) ^ (np.abs(step) == 1)
    following += two & falls
    return following


def _cycles(following: Int64) -> Iterator[Int64]:
    """The borders of each outline in order, the first one once more at the end."""
    # Python reads single elements of these faster than NumPy does, and they take no more memory
    after, new = following.data, bytearray(b"\1") * len(following)
    start = new.find(1)
    while start >= 0:
        cycle, at = array("q", [start]), after[start]
        new[start] = 0
        while at != start:
            cycle.append(at)
            new[at] = 0
            at = after[at]
        cycle.append(start)
        yield np.frombuffer(cycle, dtype=np.int64)
        start = new.find(1, start + 1)


def _polygon(borders: _Borders, cycle: Int64, stride: int) -> Polygon:
    origin = borders.origin[cycle]
    (x1, y1), (x2, y2) = np.divmod(origin, stride), np.divmod(origin + borders.step[cycle], stride)
    return (np.stack((x1 + x2, y1 + y2), axis=1) / 2).astype(np.float32)
