"""Extents, centres of mass and areas of a training set's objects, as training will see their masks."""

from array import array
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from condinst_deploy.data.annotation_arrays import Instance, Polygons, Records
from condinst_deploy.data.annotation_checks import merged_rle
from condinst_deploy.masks import RLE, Masks

BEYOND = 1.0
"""Pixels by which a polygon may leave its image and still be taken as it is written."""

THIN, CONCAVE = 0.05, 0.5
"""Shares of a rectangle around it that a polygon, or an RLE, must fill so that arithmetic gives its centre.

Polygons that cross themselves can have an area of 0, and the centre of a concave RLE is not that of its rectangle:
the pixels of such masks are counted.
"""


class Objects(NamedTuple):
    """All objects to learn, one row each."""

    ids: list[int]
    boxes: npt.NDArray[np.float64]  # (n, 4) xyxy
    extents: npt.NDArray[np.float64]  # (n, 4) xyxy of the masks as annotated, also outside the image
    visible: npt.NDArray[np.float64]  # (n, 4) xyxy of the masks inside the image
    centres: npt.NDArray[np.float64]  # (n, 2) x, y of the masks inside the image
    areas: npt.NDArray[np.float64]  # (n,) as annotated, or else the mask's
    mask_areas: npt.NDArray[np.float64]  # (n,) of the masks inside the image; 0: without a pixel
    sizes: npt.NDArray[np.int64]  # (n, 2) height, width of the image
    polygons: npt.NDArray[np.bool_]  # (n,) the mask is polygons


class _Shape(NamedTuple):
    """One mask inside its image."""

    extents: tuple[float, float, float, float]  # xyxy
    centre: tuple[float, float]  # x, y of the centre of mass
    area: float


def objects_of(records: Records) -> Objects:
    """The objects of all images."""
    rows, owners = records.owned()
    objects, shapes, polygons = records.objects, array("d"), array("b")
    for index, (height, width) in zip(rows.tolist(), records.sizes[owners].tolist(), strict=True):
        instance = objects.instance(index, (height, width))
        annotated, inside = _shapes(instance, (height, width))
        shapes.extend((*annotated, *inside.extents, *inside.centre, inside.area))
        polygons.append(isinstance(instance.segmentation, tuple))
    shape, areas = np.array(shapes, dtype=np.float64).reshape(-1, 11), objects.areas[rows]
    return Objects(
        ids=objects.ids[rows].tolist(),
        boxes=objects.boxes[rows],
        extents=shape[:, :4],
        visible=shape[:, 4:8],
        centres=shape[:, 8:10],
        areas=np.where(np.isnan(areas), shape[:, 10], areas),
        mask_areas=shape[:, 10],
        sizes=records.sizes[owners],
        polygons=np.array(polygons, dtype=np.bool_),
    )


def _shapes(instance: Instance, size: tuple[int, int]) -> tuple[tuple[float, float, float, float], _Shape]:
    """Extents as annotated, and the shape inside the image of `size`, `(height, width)`."""
    segmentation = instance.segmentation
    if isinstance(segmentation, tuple):
        shape = _polygon_shape(segmentation)
        exact = _fill(shape) >= THIN and not leaves(np.array([shape.extents]), np.array([size]))[0]
    else:
        shape = _rle_shape(segmentation)
        exact = _fill(shape) >= CONCAVE or shape.area == 0
    return shape.extents, shape if exact else _counted_shape(merged_rle(segmentation, size), size, shape)


def leaves(extents: npt.NDArray[np.float64], sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return for each object `(n, 4)` whether it leaves its image `(n, 2)`, height and width, by more than `BEYOND`."""
    x1, y1, x2, y2 = extents.T
    height, width = sizes[:, 0], sizes[:, 1]
    outside = (x1 < -BEYOND) | (y1 < -BEYOND) | (x2 > width + BEYOND) | (y2 > height + BEYOND)
    return np.asarray(outside, dtype=np.bool_)


def _fill(shape: _Shape) -> float:
    """Share of the rectangle around a mask that belongs to it."""
    x1, y1, x2, y2 = shape.extents
    rectangle = (x2 - x1) * (y2 - y1)
    return shape.area / rectangle if rectangle > 0 else 0.0


def _polygon_shape(parts: Polygons) -> _Shape:
    area, moment = 0.0, np.zeros(2)
    points = [part.reshape(-1, 2) for part in parts]
    for own in points:  # the shoelace formula
        following = np.concatenate((own[1:], own[:1]))
        cross = own[:, 0] * following[:, 1] - following[:, 0] * own[:, 1]
        sign = -1.0 if cross.sum() < 0 else 1.0
        area += sign * cross.sum() / 2
        moment += sign * ((own + following) * cross[:, None]).sum(axis=0) / 6
    together = np.concatenate(points)
    low, high = together.min(axis=0), together.max(axis=0)
    x, y = moment / area if area > 0 else (low + high) / 2
    return _Shape((float(low[0]), float(low[1]), float(high[0]), float(high[1])), (float(x), float(y)), float(area))


def _rle_shape(rle: RLE) -> _Shape:
    """The shape of an RLE; its centre is that of its extents."""
    x, y, width, height = (float(value) for value in coco_mask.toBbox(rle))
    return _Shape((x, y, x + width, y + height), (x + width / 2, y + height / 2), float(coco_mask.area(rle)))


def _counted_shape(rle: RLE, size: tuple[int, int], annotated: _Shape) -> _Shape:
    """The shape of a mask's pixels; of a mask without pixels what is annotated, with an area of 0."""
    masks = Masks.from_rle([rle], size)
    crop, (window,) = masks.crop(0), masks.windows
    area = int(crop.sum())
    if not area:
        return annotated._replace(area=0.0)
    # a pixel's centre lies half a pixel behind its index
    x = window.x + 0.5 + float(crop.sum(axis=0) @ np.arange(window.width)) / area
    y = window.y + 0.5 + float(crop.sum(axis=1) @ np.arange(window.height)) / area
    right, bottom = window.x + window.width, window.y + window.height
    return _Shape((float(window.x), float(window.y), float(right), float(bottom)), (x, y), float(area))
