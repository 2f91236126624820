"""Polygons with fewer points: none of those left out is farther away than was allowed."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from condinst_deploy.errors import ConfigError
from condinst_deploy.masks import Masks
from condinst_deploy.masks.simplification import simplified


def disc(diameter: int) -> Masks:
    y, x = np.ogrid[: diameter + 4, : diameter + 4]
    centre = (diameter + 3) / 2
    return Masks.from_dense(((y - centre) ** 2 + (x - centre) ** 2 <= (diameter / 2) ** 2)[None])


def farthest(polygon: npt.NDArray[np.float32], outline: npt.NDArray[np.float32]) -> float:
    """Largest distance of a point of `polygon` from the closed `outline`, by brute force."""
    points, starts = polygon.astype(float)[:, None], outline[:-1].astype(float)[None]
    directions = np.diff(outline.astype(float), axis=0)[None]
    share = ((points - starts) * directions).sum(axis=2) / (directions**2).sum(axis=2)
    nearest = starts + share.clip(0, 1)[..., None] * directions
    return float(np.sqrt(((points - nearest) ** 2).sum(axis=2)).min(axis=1).max())


@pytest.mark.parametrize("tolerance", [0.25, 0.5, 1.0, 3.0])
def test_no_point_moves_farther_than_allowed(tolerance: float) -> None:
    noise = np.random.default_rng(4).random((60, 80)) < 0.7
    shapes = [disc(182), Masks.from_dense(noise[None])]
    for shape in shapes:
        for exact, short in zip(shape.polygons()[0], shape.polygons(tolerance)[0], strict=True):
            assert farthest(exact, short) <= tolerance + 1e-9
            assert np.array_equal(short[0], short[-1])
            assert len(np.unique(short, axis=0)) >= 3
            assert {tuple(p) for p in short.tolist()} <= {tuple(p) for p in exact.tolist()}


def test_a_disc_has_far_fewer_points() -> None:
    exact, short = disc(182).polygons()[0][0], disc(182).polygons(0.75)[0][0]
    assert len(exact) > 700
    assert len(short) < 60


def test_no_tolerance_is_the_outline_itself() -> None:
    for one, other in zip(disc(30).polygons()[0], disc(30).polygons(0.0)[0], strict=True):
        assert np.array_equal(one, other)


def test_a_straight_line_of_pixels_keeps_an_area() -> None:
    line = np.zeros((1, 5, 50), dtype=np.bool_)
    line[0, 2, 3:47] = True
    (polygon,) = Masks.from_dense(line).polygons(10)[0]
    x, y = polygon.astype(float).T
    assert abs(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1])) > 1


def test_small_polygons_stay_as_they_are() -> None:
    triangle = np.array([[0, 0], [1, 0], [0, 1], [0, 0]], dtype=np.float32)
    assert np.array_equal(simplified(triangle, 100), triangle)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf"), "1", None, True, 10**400])
def test_tolerances_without_meaning_are_refused(tolerance: Any) -> None:
    with pytest.raises(ConfigError, match="tolerance is"):
        disc(5).polygons(tolerance)
