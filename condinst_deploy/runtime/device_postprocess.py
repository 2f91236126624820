"""`postprocess` for outputs that are on a GPU: masks are made there, and cross to the host as bit-packed crops.

What crosses is the slots' boxes, scores, labels and extents, then the crops of those that are kept; the logits stay.
Which detections are kept, and what their boxes are, is `runtime/postprocess.py`'s for both.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from torch import Tensor

from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest
from condinst_deploy.kernels.paste import (
    LARGEST_PRODUCT,
    IntArray,
    first_probabilities,
    mask_extents,
    packed_masks,
)
from condinst_deploy.masks import BoolArray, Masks
from condinst_deploy.runtime.device_outputs import DeviceOutputs, on_host, side_stream
from condinst_deploy.runtime.postprocess import (
    ResultFilter,
    SlotOutputs,
    detections_from_outputs,
    detections_with_masks,
    require_finite,
)

LARGEST_CROSSING = 64 << 20
"""Bytes of packed crops that are made at once; more go in turns, so that memory does not grow with the batch."""

Crop = tuple[tuple[int, int], BoolArray]  # (y, x), pixels


def detections_from_device(
    outputs: DeviceOutputs,
    geometries: Sequence[ImageGeometry],
    manifest: ModelManifest,
    result_filter: ResultFilter,
) -> list[InstanceDetections]:
    """`detections_from_outputs` for outputs on a device.

    Raises:
        BackendError: the network's outputs are not finite.
    """
    with side_stream(outputs.tensors.mask_logits.device):
        if not all(_fits(geometry) for geometry in geometries):
            host = outputs.on_host(len(geometries), manifest.precision)
            return detections_from_outputs(host, geometries, manifest, result_filter)
        tensors = outputs.taken()
        *small, extents = on_host(*tensors[:-1], mask_extents(tensors.mask_logits))
        require_finite(not extents[: len(geometries), :, -1].any(), manifest.precision)

        def masks_of(kept: list[IntArray]) -> list[Masks]:
            rows = [crop_rows(extents[i], i, slots, geometries[i], tensors.mask_logits) for i, slots in enumerate(kept)]
            crops = _crops(tensors.mask_logits, np.concatenate(rows)) if rows else iter(())
            return [_masks(geometry, crops, len(slots)) for geometry, slots in zip(geometries, kept, strict=True)]

        return detections_with_masks(SlotOutputs(*small), geometries, manifest, result_filter, masks_of)


def crop_rows(
    extents: npt.NDArray[np.int32], image: int, slots: IntArray, geometry: ImageGeometry, logits: Tensor
) -> IntArray:
    """`packed_masks`' rows `(n, 9)` for the slots of an image: all pixels that can be set.

    Args:
        extents: `(K, 5)` of the image, as `mask_extents` gives them.
        image: its place in the batch.
        slots: `(n,)`.
        geometry: sizes of the image.
        logits: `(B, K, h, w)`.
    """
    top, bottom, left, right = extents[slots, :4].astype(np.int64).T
    _, number, height, width = logits.shape
    y, end_y = _pixels(top, bottom, height, geometry.resized[0], geometry.original[0])
    x, end_x = _pixels(left, right, width, geometry.resized[1], geometry.original[1])
    sizes = [np.full(len(slots), side) for side in (*geometry.resized, *geometry.original)]
    return np.column_stack((image * number + slots, y, x, end_y - y, end_x - x, *sizes))


def _fits(geometry: ImageGeometry) -> bool:
    """Return whether the kernel's 32-bit integers can index this image."""
    sides = zip(geometry.original, geometry.resized, strict=True)
    return all(original * resized < LARGEST_PRODUCT for original, resized in sides)


def _pixels(first: IntArray, last: IntArray, cells: int, resized: int, original: int) -> tuple[IntArray, IntArray]:
    """First pixel, and first one behind, of those that positive logits `first..last` of an axis can set.

    Probability 2k + 1 is logit k, 2k + 2 is halfway between logits k and k + 1; so 2 first .. 2 last + 2 can be above
    0.5, and a pixel takes part of a probability and the next one.
    """
    sampled = _sampled(resized, original)
    start = np.searchsorted(sampled, 2 * first - 1, side="left")
    stop = np.searchsorted(sampled, np.minimum(2 * last + 2, 2 * cells - 1), side="right")
    nothing = last < 0
    return np.where(nothing, 0, start), np.where(nothing, 0, np.maximum(start, stop))


@lru_cache(maxsize=64)
def _sampled(resized: int, original: int) -> IntArray:
    return first_probabilities(resized, original)


def _crops(logits: Tensor, rows: IntArray) -> Iterator[Crop]:
    """The crops of `rows` in order."""
    for turn in crossings(rows):
        packed, starts = packed_masks(logits, rows[turn])
        (bits,) = on_host(packed)
        for row, start, stop in zip(rows[turn], starts[:-1], starts[1:], strict=True):
            _, top, left, height, width, *_ = row.tolist()
            packed_rows = bits[start:stop].reshape(height, -(-width // 8))
            yield (top, left), np.unpackbits(packed_rows, axis=1, count=width).view(np.bool_)


def crossings(rows: IntArray) -> Iterator[slice]:
    """Slices of `rows` whose packed crops stay within the limit, or hold a single one."""
    sizes = rows[:, 3] * -(-rows[:, 4] // 8)
    start, size = 0, 0
    for i, more in enumerate(sizes.tolist()):
        if i > start and size + more > LARGEST_CROSSING:
            yield slice(start, i)
            start, size = i, 0
        size += more
    if start < len(rows):
        yield slice(start, len(rows))


def _masks(geometry: ImageGeometry, crops: Iterator[Crop], number: int) -> Masks:
    """The next `number` crops as the masks of an image."""
    own = [next(crops) for _ in range(number)]
    offsets = np.array([offset for offset, _ in own], dtype=np.int64).reshape(-1, 2)
    return Masks.from_crops(geometry.original, offsets, [crop for _, crop in own])
