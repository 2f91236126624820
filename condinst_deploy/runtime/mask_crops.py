"""Inputs of the kernels that find runs of masks: the part of each mask that can be set, and how it is resampled.

It has no PyTorch: engines and the torch backend use it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.kernels.runs_launch import LIMITS, ColumnTables, IntArray, Limits, MaskCrops
from condinst_deploy.runtime.postprocess import composed_resampling


def kernels_cover(geometries: Sequence[ImageGeometry], logits: tuple[int, ...], limits: Limits = LIMITS) -> bool:
    """Whether numbers of 32 bits hold the changes of masks of these images; `logits` is the shape `(B, K, h, w)`."""
    rows = 2 * logits[2] + 4
    return all(rows * geometry.original[1] <= limits.changes for geometry in geometries)


def mask_crops(
    extents: npt.NDArray[np.int32],
    kept: Sequence[IntArray],
    geometries: Sequence[ImageGeometry],
    logits: tuple[int, ...],
) -> MaskCrops:
    """Crops of the kept slots of a batch's images.

    Args:
        extents: `(B, K, 5)` first and last row, first and last column of each slot's positive logits, -1 as the last
            ones where there is none.
        kept: slots `(n_i,)` of each image.
        geometries: sizes of the images, of at least one.
        logits: the shape `(B, K, h, w)`.
    """
    _, number, height, width = logits
    crops, axes, tables, begin = [], [], [], 0
    for i, (slots, geometry) in enumerate(zip(kept, geometries, strict=True)):
        rows = composed_resampling(2 * height, geometry.resized[0], geometry.original[0])
        columns = composed_resampling(2 * width, geometry.resized[1], geometry.original[1])
        top, bottom, left, right = extents[i, slots, :4].astype(np.int64).T
        # from the logit before the first positive one to the one behind the last; and the pixels between those
        start = np.searchsorted(columns.logit, left - 1, side="left")
        stop = np.searchsorted(columns.logit, right, side="right")
        pixels = np.where(bottom < 0, 0, np.maximum(stop - start, 0))
        crop = np.empty((len(slots), 9), dtype=np.int64)
        found = (i * number + slots, top - 1, left - 1, 2 * (bottom - top) + 5, 2 * (right - left) + 5, start, pixels)
        for field, values in enumerate((*found, begin, geometry.original[0])):
            crop[:, field] = values
        crop[pixels == 0, 1:7] = 0
        crops.append(crop)
        axes.append(np.tile((rows.step, rows.start, rows.places[-1]), (len(slots), 1)))
        tables.append((columns.first.astype(np.int32), columns.share))
        begin += geometry.original[1]
    first, share = (np.concatenate(parts) for parts in zip(*tables, strict=True))
    return MaskCrops(np.concatenate(crops), np.concatenate(axes), ColumnTables(first, share))
