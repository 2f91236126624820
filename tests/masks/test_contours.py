"""Outlines traced from runs against contourpy's contours of the dense mask."""

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from contourpy import LineType, contour_generator
from hypothesis import given, settings
from hypothesis import strategies as st

from condinst_deploy.masks import Masks

Bool = npt.NDArray[np.bool_]
Curve = tuple[tuple[float, ...], ...]


def curve(polygon: npt.NDArray[np.float32]) -> Curve:
    """A closed polygon, wherever it begins."""
    assert polygon.dtype == np.float32
    assert np.array_equal(polygon[0], polygon[-1])
    points = [tuple(point) for point in polygon[:-1].tolist()]
    first = points.index(min(points))
    return tuple(points[first:] + points[:first])


def contours(mask: Bool) -> list[Curve]:
    """Return contourpy's outlines at one half of the mask, padded with 0: the mask on the left, like ours."""
    padded = np.pad(mask, 1).astype(np.float64)
    lines = contour_generator(z=padded, line_type=LineType.Separate).lines(0.5)
    # padded index i is pixel i - 1, whose centre is at i - 0.5
    return sorted(curve((np.asarray(line) - 0.5).astype(np.float32)) for line in lines)


def traced(mask: Bool) -> list[Curve]:
    (polygons,) = Masks.from_dense(mask[None]).polygons()
    return sorted(curve(polygon) for polygon in polygons)


@st.composite
def masks(draw: st.DrawFn) -> Bool:
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return np.array(bits, dtype=np.bool_).reshape(height, width)


@given(masks())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_outlines_are_the_contours_of_the_dense_mask(mask: Bool) -> None:
    assert traced(mask) == contours(mask)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("size", [(1, 90), (90, 1), (60, 90)])
def test_outlines_of_blotches_are_contours(size: tuple[int, int], share: float) -> None:
    mask = np.random.default_rng(0).random(size) < share
    assert traced(mask) == contours(mask)


def test_pixels_that_touch_at_a_corner_have_outlines_of_their_own() -> None:
    for mask in (np.eye(2, dtype=np.bool_), np.eye(2, dtype=np.bool_)[::-1]):
        assert len(traced(mask)) == 2
        assert traced(mask) == contours(mask)


def test_memory_and_points_follow_the_outline_and_not_the_area() -> None:
    height, width = 3000, 4000
    columns = np.arange(width)
    half = np.sqrt(np.maximum(1400.0**2 - (columns - 2000) ** 2, 0)).astype(np.int64)
    runs = np.stack((columns * height + 1500 - half, columns * height + 1500 + half), axis=1)[half > 0].ravel()
    disc, full = Masks((height, width), (runs,)), Masks((height, width), (np.array([0, height * width]),))
    for large in (disc, full):
        tracemalloc.start()
        ((polygon,),) = large.polygons()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(polygon) <= 2 * (height + width) + 1
        # a byte a pixel would be 12 MB
        assert peak < 4e6
    # the shoelace formula; cut corners are an eighth of a pixel each
    x, y = polygon.astype(np.float64).T
    assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2 == height * width - 4 / 8
