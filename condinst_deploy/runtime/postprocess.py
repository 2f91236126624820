"""The network's outputs -> detections with exact, compact masks at the picture's original size.

The references compute masks densely: logits, aligned bilinear x2, sigmoid, aligned bilinear x4, crop to
the resized picture, bilinear to the original size, > 0.5. After the sigmoid every step up to the
threshold is linear and separable, so all of it is one small matrix for the rows and one for the columns;
and interpolated values never exceed their inputs, so outside the reach of the values above 0.5 the mask
is empty. Work and memory follow each mask's extent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from condinst_deploy.contract import FloatArray, ImageGeometry, InstanceDetections, ModelManifest, NetworkOutputs
from condinst_deploy.errors import BackendError
from condinst_deploy.masks import BoolArray, Masks, trimmed_crop

Float32 = npt.NDArray[np.float32]

UPSAMPLED_STRIDE = 4
"""Stride of the probabilities, in network pixels: the logits' 8 after the aligned bilinear x2."""

REACH = 2
"""How many probabilities beyond one above 0.5 take part in a pixel that it takes part in."""


@dataclass(frozen=True)
class ResultFilter:
    """What a user wants of the detections; None: all."""

    score_threshold: float | None = None  # keep scores strictly above
    labels: frozenset[int] | None = None
    max_detections: int | None = None

    def kept(self, scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Indices of the detections to keep, `scores` and `labels` being sorted by score."""
        keep = np.ones(len(scores), dtype=np.bool_)
        if self.score_threshold is not None:
            keep &= scores > self.score_threshold
        if self.labels is not None:
            keep &= np.isin(labels, sorted(self.labels))
        return np.flatnonzero(keep)[: self.max_detections]


class SlotOutputs(NamedTuple):
    """The network's outputs without the logits, which may be elsewhere."""

    num_detections: npt.NDArray[np.int32]  # (B,)
    boxes: FloatArray  # (B, K, 4) xyxy, network pixels
    scores: FloatArray  # (B, K)
    labels: npt.NDArray[np.int32]  # (B, K)


MaskMaker = Callable[[list[npt.NDArray[np.int64]]], list[Masks]]
"""Slots to keep of each picture -> their masks."""


def detections_from_outputs(
    outputs: NetworkOutputs,
    geometries: Sequence[ImageGeometry],
    manifest: ModelManifest,
    result_filter: ResultFilter,
) -> list[InstanceDetections]:
    """Detections of each picture of a batch, in original pixels; blank pictures at the end are ignored.

    AdelaiDet's models have boxes that reach beyond the picture: they are clipped here, and a detection whose box
    is empty then is dropped.

    Raises:
        BackendError: the network's outputs are not finite.
    """
    require_finite(bool(np.isfinite(outputs.mask_logits).all()))

    def masks_of(kept: list[npt.NDArray[np.int64]]) -> list[Masks]:
        pictures = zip(outputs.mask_logits, kept, geometries, strict=False)
        return [masks_from_logits(logits, slots, geometry) for logits, slots, geometry in pictures]

    return detections_with_masks(SlotOutputs(*outputs[:-1]), geometries, manifest, result_filter, masks_of)


def require_finite(finite: bool) -> None:
    """Refuse logits that are not finite: a comparison with NaN is false, so detections would be missing unnoticed.

    Raises:
        BackendError: they are not.
    """
    if not finite:
        raise BackendError(
            "the network gives NaN or infinity: its weights, or its precision, overflow on this picture;"
            " check the checkpoint, or run it in float32"
        )


def detections_with_masks(
    outputs: SlotOutputs,
    geometries: Sequence[ImageGeometry],
    manifest: ModelManifest,
    result_filter: ResultFilter,
    masks_of: MaskMaker,
) -> list[InstanceDetections]:
    """`detections_from_outputs` with masks from wherever the logits are, made for the slots that are kept."""
    kept = [_kept(outputs, i, geometry, manifest, result_filter) for i, geometry in enumerate(geometries)]
    masks = masks_of([slots for slots, _ in kept])
    return [
        InstanceDetections(
            boxes=boxes,
            scores=outputs.scores[i, slots].astype(np.float32),
            labels=outputs.labels[i, slots].astype(np.int64),
            masks=masks[i],
            class_names=manifest.class_names,
            category_ids=manifest.category_ids,
        )
        for i, (slots, boxes) in enumerate(kept)
    ]


def _kept(
    outputs: SlotOutputs, i: int, geometry: ImageGeometry, manifest: ModelManifest, result_filter: ResultFilter
) -> tuple[npt.NDArray[np.int64], Float32]:
    """Slots of picture `i` that become detections, and their boxes in original pixels."""
    n = int(outputs.num_detections[i])
    boxes, found = geometry.to_original(outputs.boxes[i, :n]), np.arange(n)
    if manifest.family == "adelaidet":
        boxes = geometry.clipped(boxes)
        found = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    kept = found[result_filter.kept(outputs.scores[i, found], outputs.labels[i, found])]
    return kept, boxes[kept]


def masks_from_logits(logits: npt.NDArray[Any], kept: npt.NDArray[np.int64], geometry: ImageGeometry) -> Masks:
    """Binary masks of the slots `kept`.

    Args:
        logits: `(K, h, w)` at stride 8 of the (batch's) padded size.
        kept: `(n,)` slots.
        geometry: sizes of the picture.
    """
    height, width = (2 * side for side in logits.shape[1:])
    rows = composed_resampling(height, geometry.resized[0], geometry.original[0])
    columns = composed_resampling(width, geometry.resized[1], geometry.original[1])
    with _thread_pools().limit(limits=1, user_api="blas"):  # threads that wait for each other cost more than they do
        masks = [_mask(logits[slot], rows, columns) for slot in kept]
    offsets = np.array([offset for offset, _ in masks], dtype=np.int64).reshape(-1, 2)
    return Masks(geometry.original, offsets, tuple(crop for _, crop in masks))


@cache
def _thread_pools() -> ThreadpoolController:
    """The libraries with threads of their own, numpy's BLAS among them; to look for them takes milliseconds."""
    return ThreadpoolController()


class Resampling(NamedTuple):
    """One axis' way from probabilities at stride 4 to pixels of the original."""

    matrix: Float32  # (original, n): pixels = matrix @ probabilities
    first: npt.NDArray[np.int64]  # (original,) first probability that takes part in a pixel, rising
    last: npt.NDArray[np.int64]  # (original,) last one, rising


@lru_cache(maxsize=64)
def composed_resampling(n: int, resized: int, original: int) -> Resampling:
    """Aligned bilinear x4 of `n` values, crop to `resized`, bilinear to `original`, as one matrix."""
    # output o of the second step samples the resized picture at (o + 0.5) * resized / original - 0.5
    at = np.maximum((np.arange(original) + 0.5) * (resized / original) - 0.5, 0)
    low = np.minimum(np.floor(at).astype(np.int64), resized - 1)
    high = np.minimum(low + 1, resized - 1)
    share = at - low
    matrix = np.zeros((original, n))
    taps = []
    for pixel, weight in ((low, 1 - share), (high, share)):
        # pixel i of the resized picture samples the probabilities at max((i - 2) / 4, 0)
        source = np.maximum((pixel - UPSAMPLED_STRIDE // 2) / UPSAMPLED_STRIDE, 0)
        left = np.floor(source).astype(np.int64)
        right = np.minimum(left + 1, n - 1)
        np.add.at(matrix, (np.arange(original), left), weight * (1 - (source - left)))
        np.add.at(matrix, (np.arange(original), right), weight * (source - left))
        taps += [left, right]
    return Resampling(matrix.astype(np.float32), taps[0], taps[3])


def _mask(logits: npt.NDArray[Any], rows: Resampling, columns: Resampling) -> tuple[tuple[int, int], BoolArray]:
    """One instance: `((y, x), crop)` at original size."""
    positive = logits > 0
    window_y, window_x = (_window(np.asarray(positive.any(axis=axis))) for axis in (1, 0))
    if window_y is None or window_x is None:
        return trimmed_crop(np.zeros((0, 0), dtype=np.bool_))
    out_y, used_y = _spans(window_y, rows)
    out_x, used_x = _spans(window_x, columns)
    probabilities = _probabilities(logits, used_y, used_x)
    values = rows.matrix[out_y, used_y] @ probabilities @ columns.matrix[out_x, used_x].T
    (y, x), crop = trimmed_crop(values > 0.5)
    return (y + out_y.start, x + out_x.start) if crop.size else (0, 0), crop


def _window(any_positive: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    """Range of probabilities that can be above 0.5, given which logits are positive along one axis."""
    where = np.flatnonzero(any_positive)
    if len(where) == 0:
        return None
    # probability 2k + 1 is logit k; 2k + 2 is halfway between logits k and k + 1
    return 2 * int(where[0]), min(2 * int(where[-1]) + 3, 2 * len(any_positive))


def _spans(window: tuple[int, int], axis: Resampling) -> tuple[slice, slice]:
    """Pixels in which the window's probabilities take part, and all probabilities that those pixels need."""
    start = int(np.searchsorted(axis.last, window[0], side="left"))
    stop = int(np.searchsorted(axis.first, window[1], side="left"))
    return slice(start, stop), slice(max(window[0] - REACH, 0), min(window[1] + REACH, axis.matrix.shape[1]))


def _probabilities(logits: npt.NDArray[Any], used_y: slice, used_x: slice) -> Float32:
    """Aligned bilinear x2 and sigmoid of a window, given in probabilities' coordinates."""
    doubled = _doubled(_doubled(logits.astype(np.float32, copy=False), used_y, 0), used_x, 1)
    # below -80 the sigmoid is 0 in float32, and exp would overflow
    exponential: Float32 = np.exp(-np.maximum(doubled, np.float32(-80)))
    return (1 / (1 + exponential)).astype(np.float32, copy=False)


def _doubled(x: Float32, used: slice, axis: int) -> Float32:
    """Entries `used` of the aligned bilinear x2 along `axis`: output j samples at `max((j - 1) / 2, 0)`."""
    at = np.maximum(np.arange(used.start, used.stop) - 1, 0)
    low = at // 2
    high = np.minimum(low + at % 2, x.shape[axis] - 1)
    half = np.float32(0.5)
    doubled: Float32 = half * x.take(low, axis=axis) + half * x.take(high, axis=axis)
    return doubled
