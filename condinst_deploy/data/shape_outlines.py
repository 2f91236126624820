"""Outlines of the generated shapes: random polygons on a grid of 1/16 pixel, and the masks that they enclose."""

import math

import numpy as np
import numpy.typing as npt

from condinst_deploy.masks import BoolArray

Outline = npt.NDArray[np.float64]  # (m, 2) x, y
GridOutline = npt.NDArray[np.int64]  # (m, 2) x, y in 1/16 pixel

GRID = 16  # outlines lie on multiples of 1/16 pixel


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A number in low..high."""
    return low + (high - low) * rng.random()


def whole_between(rng: np.random.Generator, low: int, high: int) -> int:
    """A whole number in low..high, made from `random`: the stream that NumPy changes least between versions."""
    return low + int(rng.random() * (high - low + 1))


def _ellipse(rng: np.random.Generator) -> Outline:
    """Outline in -0.5..0.5, as those below."""
    return _on_circle(40) / 2


def _rectangle(rng: np.random.Generator) -> Outline:
    return np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])


def _star(rng: np.random.Generator) -> Outline:
    """A star of four to six rays, or an L."""
    if rng.random() < 0.4:
        x, y = between(rng, -0.2, 0.0), between(rng, -0.2, 0.0)
        return np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, y), (x, y), (x, 0.5), (-0.5, 0.5)])
    points = _on_circle(2 * whole_between(rng, 4, 6))  # (2 * rays, 2)
    points[1::2] *= between(rng, 0.4, 0.55)
    return np.asarray((points - points.min(axis=0)) / np.ptp(points, axis=0) - 0.5)


def _on_circle(count: int) -> Outline:
    angles = np.arange(count) * (math.tau / count)
    return np.stack((np.cos(angles), np.sin(angles)), axis=1)


OUTLINES = (_ellipse, _rectangle, _star)
"""Functions that make an outline in -0.5..0.5, in the order of the class names."""


def turned(outline: Outline, rng: np.random.Generator) -> GridOutline:
    """Turn an outline in pixels by any angle and put it on the grid, with nothing below 0."""
    angle = between(rng, 0.0, math.tau)
    cos, sin = math.cos(angle), math.sin(angle)
    points: GridOutline = np.rint(outline @ np.array([(cos, sin), (-sin, cos)]) * GRID).astype(np.int64)
    points += (whole_between(rng, 0, GRID - 1), whole_between(rng, 0, GRID - 1)) - points.min(axis=0)
    return points


def rasterised(outline: GridOutline) -> BoolArray:
    """Pixels `(h, w)` whose centres are inside a polygon `(m, 2)` of x, y >= 0 on the grid, exactly (even-odd)."""
    width, height = (int(side) for side in -(-outline.max(axis=0) // GRID))
    following = np.roll(outline, -1, axis=0)
    upward = outline[:, 1] < following[:, 1]
    x1, y1 = np.where(upward[:, None], outline, following).T
    x2, y2 = np.where(upward[:, None], following, outline).T
    centres = np.arange(height)[:, None] * GRID + GRID // 2  # (h, 1)
    row, edge = np.nonzero((y1 <= centres) & (centres < y2))
    rise = (y2 - y1)[edge]
    crossing = x1[edge] * rise + (centres[row, 0] - y1[edge]) * (x2 - x1)[edge]  # x times rise
    column = (crossing - GRID // 2 * rise) // (GRID * rise) + 1  # first centre right of the crossing
    flips = np.bincount(row * (width + 1) + column, minlength=height * (width + 1)).reshape(height, width + 1)
    return np.asarray(np.cumsum(flips, axis=1)[:, :width] % 2 == 1)


def cut_in_two(mask: BoolArray, rng: np.random.Generator) -> BoolArray:
    """Take a band out of a mask; the mask itself where that would not leave two parts of size."""
    height, width = mask.shape
    longest = max(mask.shape)
    angle = between(rng, 0.0, math.pi)
    across, down = round(64 * math.cos(angle)), round(64 * math.sin(angle))
    ys, xs = np.arange(height)[:, None] * 2 + 1 - height, np.arange(width) * 2 + 1 - width  # half pixels
    distance = across * xs + down * ys - int(128 * longest * between(rng, -0.1, 0.1))  # 1/128 pixel
    half = int(64 * max(4.0, longest * between(rng, 0.08, 0.14)))
    before, after = mask & (distance < -half), mask & (distance > half)
    least = min(np.count_nonzero(before), np.count_nonzero(after))
    return before | after if 4 * least >= np.count_nonzero(mask) else mask
