"""Boxes that are written as two corners, `[x1, y1, x2, y2]`, where COCO has `[x, y, width, height]`."""

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from condinst_deploy.data.annotation_arrays import Records, Segmentation
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.data.data_report import Finding
from condinst_deploy.errors import DataError
from condinst_deploy.shown_text import shown

MARGIN = 2.0
"""Pixels by which a box may differ from its mask's extents: tools round, and count the last pixel or do not."""

ADVICE = "COCO's bbox is [x, y, width, height]: subtract x1 from x2 and y1 from y2"

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def are_corners(
    boxes: FloatArray, extents: FloatArray, sizes: npt.NDArray[np.int64], boxes_only: bool = False
) -> BoolArray:
    """Return for each object whether its box fits as two corners, and not as COCO reads it.

    A box fits if it is its mask's extents within `MARGIN`. Without masks, it fits if it lies in its image.

    Args:
        boxes: `(n, 4)` xyxy, as COCO's format is read.
        extents: `(n, 4)` xyxy of the masks as annotated.
        sizes: `(n, 2)` height and width of each object's image.
        boxes_only: there are no masks.

    Returns:
        `(n,)`.
    """
    limit = np.tile(sizes[:, ::-1], 2).astype(np.float64)

    def fits(some: FloatArray) -> BoolArray:
        if boxes_only:
            inside = ((some >= -MARGIN) & (some <= limit + MARGIN)).all(axis=1)
            return np.asarray(inside & (some[:, 2:] > some[:, :2]).all(axis=1), dtype=np.bool_)
        away = [np.abs(some - each).max(axis=1) for each in (extents, extents.clip(0, limit))]
        return np.asarray(np.minimum(*away) <= MARGIN, dtype=np.bool_)

    return fits(_as_written(boxes)) & ~fits(boxes)


def corners_finding(ids: list[int], boxes: FloatArray, which: BoolArray, place: str = "") -> tuple[Finding, bool]:
    """The objects whose boxes are corners, each with the box that was expected; and whether most objects are so.

    Args:
        ids: of all `n` objects.
        boxes: `(n, 4)` xyxy, as COCO's format is read.
        which: `(n,)` objects whose boxes are corners.
        place: where the objects are, for example "in the validation set"; "" in the training set.
    """
    chosen = np.flatnonzero(which)
    named = []
    for i, (x, y, right, bottom) in zip(chosen.tolist(), _as_written(boxes)[chosen].tolist(), strict=True):
        came, expected = _numbers(x, y, right, bottom), _numbers(x, y, right - x, bottom - y)
        named.append(f"annotation {ids[i]}: {came} instead of {expected}")
    what = f"{place} with the corners [x1, y1, x2, y2] as bbox".strip()
    return Finding.of("object", what, ADVICE, named), 2 * len(chosen) > len(ids)


def corners_in(data: CocoDataset, place: str = "") -> tuple[Finding, bool]:
    """`corners_finding` of all objects of a data set."""
    rows, owners = data.records.owned()
    boxes, sizes = data.records.objects.boxes[rows], data.records.sizes[owners]
    which = are_corners(boxes, _extents(data.records), sizes, data.boxes_only)
    return corners_finding(data.records.objects.ids[rows].tolist(), boxes, which, place)


def box_note(data: CocoDataset) -> str:
    """Return what is odd in the boxes of a set to evaluate on; "" if nothing is.

    Raises:
        DataError: most boxes are corners: the average precision of boxes would be of other boxes.
    """
    finding, most = corners_in(data)
    if most:
        raise DataError(f"{shown(data.annotations)} cannot be evaluated on: {finding}")
    return f"warning: {finding}" if finding.count else ""


def _extents(records: Records) -> FloatArray:
    """`(n, 4)` xyxy of all masks as annotated, image by image."""
    rows, owners = records.owned()
    sizes = records.sizes[owners].tolist()
    extents = [
        _extent(records.objects.segmentation(row, (height, width)))
        for row, (height, width) in zip(rows.tolist(), sizes, strict=True)
    ]
    return np.array(extents, dtype=np.float64).reshape(-1, 4)


def _extent(segmentation: Segmentation) -> FloatArray:
    if isinstance(segmentation, tuple):
        points = np.concatenate(segmentation).reshape(-1, 2)
        return np.concatenate((points.min(axis=0), points.max(axis=0)))
    x, y, width, height = coco_mask.toBbox(segmentation)
    return np.array([x, y, x + width, y + height])


def _as_written(boxes: FloatArray) -> FloatArray:
    """The four numbers of the file, `(n, 4)`: of a box that was read, the corner, width and height."""
    return np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)


def _numbers(*values: float) -> str:
    return f"[{', '.join(f'{round(value, 2):g}' if abs(value) < 1e5 else f'{value:.1f}' for value in values)}]"
