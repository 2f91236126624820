"""Which objects have a point of some pyramid level that learns them, by the rules of `model/targets.py`."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.model.config import STRIDES
from condinst_deploy.model.targets import CENTER_RADIUS, REGRESS_RANGES

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

POINTS = 4
"""Points a side that a square of three strides can hold, and one more."""

TOGETHER = 100_000
"""Objects that are checked together: about 100 MB."""


def learnable(
    boxes: FloatArray, centres: FloatArray, sizes: npt.NDArray[np.int64], preprocessing: Preprocessing,
    short_sides: Sequence[int],
) -> BoolArray:  # fmt: skip
    """Return whether each object has a positive point at one of the training sizes.

    Objects are checked independently: training gives a point that two boxes claim to the smaller one.

    Args:
        boxes: `(n, 4)` xyxy, in pixels of the original images.
        centres: `(n, 2)` x and y of the masks' centres of mass, in the same pixels.
        sizes: `(n, 2)` height and width of each object's image.
        preprocessing: long side and rounding.
        short_sides: that images are resized to.

    Returns:
        `(n,)`.
    """
    found = np.zeros(len(boxes), dtype=np.bool_)
    for side in short_sides:
        for start in range(0, len(boxes), TOGETHER):
            part = slice(start, start + TOGETHER)
            resized = _resized_sizes(sizes[part], replace(preprocessing, short_side=side))
            scale = resized / sizes[part]  # (n, 2) height, width
            scale_xy, limit = scale[:, ::-1], resized[:, ::-1]
            scaled = (boxes[part] * np.tile(scale_xy, 2)).clip(0, np.tile(limit, 2))
            # a pixel's place is its index, so that a mask's centre of mass is half a pixel before the outline's
            found[part] |= _has_point(scaled, centres[part] * scale_xy - 0.5)
    return found


def _resized_sizes(sizes: npt.NDArray[np.int64], preprocessing: Preprocessing) -> FloatArray:
    """Heights and widths `(n, 2)` after resizing."""
    different, index = np.unique(sizes, axis=0, return_inverse=True)
    resized = [ImageGeometry.of((int(h), int(w)), preprocessing).resized for h, w in different]
    return np.array(resized, dtype=np.float64).reshape(-1, 2)[index.reshape(-1)]


def _has_point(boxes: FloatArray, centres: FloatArray) -> BoolArray:
    """Return whether a point of some level lies in the box, near the centre, and in the level's range."""
    found = np.zeros(len(boxes), dtype=np.bool_)
    for stride, (least, most) in zip(STRIDES, REGRESS_RANGES, strict=True):
        reach = CENTER_RADIUS * stride
        axes = [_along(boxes[:, [axis, axis + 2]], centres[:, axis], stride, reach) for axis in (0, 1)]
        (inside_x, largest_x), (inside_y, largest_y) = axes  # (n, POINTS) each
        largest = np.maximum(largest_x[:, :, None], largest_y[:, None, :])
        inside = inside_x[:, :, None] & inside_y[:, None, :]
        found |= (inside & (largest >= least) & (largest <= most)).any(axis=(1, 2))
    return found


def _along(sides: FloatArray, centres: FloatArray, stride: int, reach: float) -> tuple[BoolArray, FloatArray]:
    """Along one axis, `(n, POINTS)`: whether points lie in the square, and their larger distance to the box's sides."""
    low, high = np.maximum(centres - reach, sides[:, 0]), np.minimum(centres + reach, sides[:, 1])
    first = np.floor(low / stride - 0.5) + 1  # the first point behind the square's side
    points = (first[:, None] + np.arange(POINTS) + 0.5) * stride
    inside = (points > low[:, None]) & (points < high[:, None])
    return inside, np.maximum(points - sides[:, :1], sides[:, 1:] - points)
