"""The network's outputs -> detections with exact, compact masks at the image's original size.

The references compute masks densely: logits, aligned bilinear x2, sigmoid, aligned bilinear x4, crop to
the resized image, bilinear to the original size, > 0.5. Three facts make that cheap without changing it:

* The two steps after the sigmoid are one. Both are bilinear, and the pixels that the second one samples
  include all places where the first one has a knee; so along either axis a pixel of the original lies
  between two neighbouring probabilities.
* Interpolated values never exceed their inputs: a pixel is empty unless a probability beside it is above 0.5.
* Along a column of pixels the interpolation is straight between two probabilities. Where it crosses 0.5 is a
  division, so a mask's runs are found from its probabilities alone: no pixel is ever computed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract import FloatArray, ImageGeometry, InstanceDetections, ModelManifest, NetworkOutputs
from condinst_deploy.errors import BackendError
from condinst_deploy.masks import Masks, Runs, runs_from_changes

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

UPSAMPLED_STRIDE = 4
"""Stride of the probabilities, in network pixels: the logits' 8 after the aligned bilinear x2."""

STRIP = 1 << 16
"""Values of a mask that are worked on at a time: they stay in the processor's cache, and memory is bounded."""


@dataclass(frozen=True)
class ResultFilter:
    """Filter of detections; None means no filter."""

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
"""Slots to keep of each image -> their masks."""


def detections_from_outputs(
    outputs: NetworkOutputs,
    geometries: Sequence[ImageGeometry],
    manifest: ModelManifest,
    result_filter: ResultFilter,
) -> list[InstanceDetections]:
    """Detections of each image of a batch, in original pixels; blank images at the end are ignored.

    AdelaiDet's models have boxes that reach beyond the image: they are clipped here, and a detection whose box
    is empty then is dropped.

    Raises:
        BackendError: the network's outputs are not finite.
    """
    require_finite(bool(np.isfinite(outputs.mask_logits[: len(geometries)]).all()), manifest.precision)

    def masks_of(kept: list[npt.NDArray[np.int64]]) -> list[Masks]:
        images = zip(outputs.mask_logits, kept, geometries, strict=False)
        return [masks_from_logits(logits, slots, geometry) for logits, slots, geometry in images]

    return detections_with_masks(SlotOutputs(*outputs[:-1]), geometries, manifest, result_filter, masks_of)


def require_finite(finite: bool, precision: str = "float32") -> None:
    """Refuse outputs that are not finite: a comparison with NaN is false, so detections would be missing unnoticed.

    Args:
        finite: whether they are.
        precision: of the network, as its manifest says it.

    Raises:
        BackendError: they are not.
    """
    if finite:
        return
    if precision == "float32":
        raise BackendError("the network gives NaN or infinity in float32 on this image; check the checkpoint")
    raise BackendError(
        f"the network gives NaN or infinity in {precision} on this image; build the engine again with"
        " condinst-build-engine --calibration FOLDER and images like this one in the folder, so that the range check"
        " sees them (condinst-inspect shows what it saw), or run the model in float32; a checkpoint also in bfloat16"
    )


def check_slots(outputs: SlotOutputs, images: int, manifest: ModelManifest) -> None:
    """Check that the outputs of the first `images` of a batch can be what a network of the contract gives.

    Scores of empty slots count, too: a level that is not finite has no detections, and the network marks the last
    slot's score.

    Raises:
        BackendError: they cannot.
    """
    batch, slots = outputs.scores.shape
    shapes = (outputs.num_detections.shape, outputs.boxes.shape, outputs.labels.shape)
    if batch < images or shapes != ((batch,), (batch, slots, 4), (batch, slots)):
        raise BackendError(
            f"the network's outputs for {images} images have the shapes {(*shapes, (batch, slots))}; expected (B,),"
            " (B, K, 4), (B, K) and (B, K): export the model again"
        )
    count = outputs.num_detections[:images]
    if images and not 0 <= count.min() <= count.max() <= slots:
        raise BackendError(f"the network counts {count.tolist()} detections in {slots} slots; export the model again")
    used = np.arange(slots) < count[:, None]
    finite = np.isfinite(outputs.scores[:images]).all() and np.isfinite(outputs.boxes[:images][used]).all()
    require_finite(bool(finite), manifest.precision)
    labels = outputs.labels[:images][used]
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(manifest.class_names):
        raise BackendError(
            f"the network gives labels from {labels.min()} to {labels.max()}; its manifest names"
            f" {len(manifest.class_names)} classes: export the model again"
        )


def detections_with_masks(
    outputs: SlotOutputs,
    geometries: Sequence[ImageGeometry],
    manifest: ModelManifest,
    result_filter: ResultFilter,
    masks_of: MaskMaker,
) -> list[InstanceDetections]:
    """`detections_from_outputs` with masks from wherever the logits are, made for the slots that are kept.

    Raises:
        BackendError: as `check_slots`.
    """
    check_slots(outputs, len(geometries), manifest)
    kept = [_kept(outputs, i, geometry, manifest, result_filter) for i, geometry in enumerate(geometries)]
    masks = masks_of([slots for slots, _ in kept]) if kept else []
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


def masks_from_runs(
    runs: Iterator[Runs], kept: Sequence[npt.NDArray[np.int64]], geometries: Sequence[ImageGeometry]
) -> list[Masks]:
    """Masks of the kept slots of each image, given the runs of all in order."""
    images = zip(geometries, kept, strict=True)
    return [Masks(geometry.original, tuple(next(runs) for _ in slots)) for geometry, slots in images]


def _kept(
    outputs: SlotOutputs, i: int, geometry: ImageGeometry, manifest: ModelManifest, result_filter: ResultFilter
) -> tuple[npt.NDArray[np.int64], Float32]:
    """Slots of image `i` that become detections, and their boxes in original pixels."""
    n = int(outputs.num_detections[i])
    boxes, found = geometry.to_original(outputs.boxes[i, :n]), np.arange(n)
    if manifest.family == "adelaidet":
        boxes = geometry.clipped(boxes)
        found = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    kept = found[result_filter.kept(outputs.scores[i, found], outputs.labels[i, found])]
    return kept, boxes[kept]


def masks_from_logits(
    logits: npt.NDArray[Any], kept: npt.NDArray[np.int64], geometry: ImageGeometry, strip: int = STRIP
) -> Masks:
    """Binary masks of the slots `kept`.

    Args:
        logits: `(K, h, w)` at stride 8 of the (batch's) padded size.
        kept: `(n,)` slots.
        geometry: sizes of the image.
        strip: values of a mask that are worked on at a time, in whole columns and at least one.
    """
    height, width = (2 * side for side in logits.shape[1:])
    rows = composed_resampling(height, geometry.resized[0], geometry.original[0])
    columns = composed_resampling(width, geometry.resized[1], geometry.original[1])
    with np.errstate(over="ignore"):  # of the exponential: the sigmoid is 0 then
        return Masks(geometry.original, tuple(_runs(logits[slot], rows, columns, strip) for slot in kept))


@dataclass(frozen=True)
class Resampling:
    """One axis' way from `n` probabilities at stride 4 to pixels of the original, bilinear between neighbours."""

    n: int
    resized: int
    original: int

    @cached_property
    def places(self) -> Float64:
        """`(original,)` rising: where each pixel lies among the probabilities, from 0 to n - 1."""
        # the second step samples the resized image at (pixel + 0.5) * resized / original - 0.5, the first one
        # the probabilities at (that - 2) / 4; each holds its first and last value beyond its ends
        resized = (np.arange(self.original) + 0.5) * (self.resized / self.original) - 0.5
        resized = resized.clip(0, self.resized - 1)
        return ((resized - UPSAMPLED_STRIDE // 2) / UPSAMPLED_STRIDE).clip(0, self.n - 1)

    @cached_property
    def first(self) -> npt.NDArray[np.int64]:
        """`(original,)` the probability at or before each pixel."""
        return np.floor(self.places).astype(np.int64)

    @cached_property
    def logit(self) -> npt.NDArray[np.int64]:
        """`(original,)` the first of the two logits that `first` and the next come from; -1: only the first does."""
        return (self.first - 1) // 2

    @cached_property
    def share(self) -> Float32:
        """`(original,)` weight of the probability behind `first`; that of `first` is the rest."""
        return (self.places - self.first).astype(np.float32)

    @property
    def step(self) -> float:
        """Pixels between two probabilities."""
        return UPSAMPLED_STRIDE * (self.original / self.resized)

    @property
    def start(self) -> float:
        """The pixel, not a whole one, at the first probability."""
        return (UPSAMPLED_STRIDE // 2 + 0.5) * (self.original / self.resized) - 0.5

    def pixels(self, places: Float64) -> Float64:
        """The inverse: pixels, not whole ones, at `places`; `original`, that is none, where no pixel reaches."""
        pixels = places * self.step + self.start
        pixels[places > self.places[-1]] = self.original
        return pixels


@lru_cache(maxsize=64)
def composed_resampling(n: int, resized: int, original: int) -> Resampling:
    """Aligned bilinear x4 of `n` values, crop to `resized`, bilinear to `original`, in one step."""
    return Resampling(n, resized, original)


def _runs(logits: npt.NDArray[Any], rows: Resampling, columns: Resampling, strip: int) -> Runs:
    """Runs of one instance's mask, given its logits `(h, w)`."""
    positive = logits > 0
    in_rows, in_columns = np.asarray(positive.any(axis=1)), np.asarray(positive.any(axis=0))
    none = np.zeros(0, dtype=np.int64)
    if not in_rows.any():
        return none
    window_y, window_x = _window(in_rows), _window(in_columns)
    probabilities = _probabilities(logits, window_y, window_x)
    changes = [none]
    # logit k is probability 2k + 1, and down a column there is a 0 before the window's first
    beside, step = pixels_beside(in_columns, columns), max(1, strip // probabilities.shape[1])
    for pixels in (beside[start : start + step] for start in range(0, len(beside), step)):
        values = _resampled(probabilities, columns.first[pixels] - (2 * window_x[0] + 1), columns.share[pixels])
        column, place = _crossings(values)
        y = _boundaries(rows.pixels(place + 2 * window_y[0]), rows.original)
        changes.append(pixels[column] * rows.original + y)
    return runs_from_changes(np.concatenate(changes))


def _window(any_positive: Bool) -> npt.NDArray[np.int64]:
    """Return the range from before the first positive logit to after the last; it may leave the map by one."""
    where = np.flatnonzero(any_positive)
    return np.arange(where[0] - 1, where[-1] + 2)


def _probabilities(logits: npt.NDArray[Any], y: npt.NDArray[np.int64], x: npt.NDArray[np.int64]) -> Float32:
    """Aligned bilinear x2 and sigmoid of a window, columns first, a 0 at both ends of each: `(w', 1 + h' + 1)`."""
    # beyond an end the last logit is repeated, as both resamplings do
    window = logits.take(y, axis=0, mode="clip").take(x, axis=1, mode="clip").astype(np.float32, copy=False)
    exponent = _doubled(np.ascontiguousarray(_doubled(window).T))
    probabilities = np.zeros((exponent.shape[0], exponent.shape[1] + 2), dtype=np.float32)
    np.exp(np.negative(exponent, out=exponent), out=exponent)
    np.reciprocal(np.add(exponent, 1, out=exponent), out=probabilities[:, 1:-1])
    return probabilities


def _doubled(x: Float32) -> Float32:
    """`(n, m)` -> `(2n - 1, m)`: the rows, and between two of them their mean."""
    doubled = np.empty((2 * len(x) - 1, x.shape[1]), dtype=np.float32)
    doubled[::2] = x
    np.add(x[1:], x[:-1], out=doubled[1::2])
    doubled[1::2] *= np.float32(0.5)
    return doubled


def pixels_beside(any_positive: Bool, axis: Resampling) -> npt.NDArray[np.int64]:
    """The pixels beside a logit column with a positive value; others are empty."""
    reached = np.append(False, any_positive)  # of logit k at k + 1
    reached[:-1] |= any_positive
    return np.flatnonzero(reached.take(axis.logit + 1))


def _resampled(probabilities: Float32, first: npt.NDArray[np.int64], share: Float32) -> Float32:
    """Interpolate between column `first` and the next: `(w', h')` -> `(len(first), h')`."""
    values = probabilities[1:].take(first, axis=0)
    before = probabilities.take(first, axis=0)
    values -= before
    values *= share[:, None]
    values += before
    return values


def _crossings(values: Float32) -> tuple[npt.NDArray[np.int64], Float64]:
    """Return where columns `(w', h')`, which begin and end with 0, cross 0.5: the column, and the position in it.

    They come in column-major order, upwards and downwards in turn.
    """
    flat = values.ravel()
    above = flat > 0.5
    before = np.flatnonzero(above[1:] != above[:-1])  # never between two columns
    low, high = flat[before].astype(np.float64), flat[before + 1]
    column, place = np.divmod(before, values.shape[1])
    return column, place + (0.5 - low) / (high - low)


def _boundaries(crossings: Float64, size: int) -> npt.NDArray[np.int64]:
    """The first pixel above 0.5 behind a crossing upwards, and the first one that is not behind one downwards."""
    pixels = np.ceil(crossings)
    pixels[::2] = np.floor(crossings[::2]) + 1
    return np.minimum(np.maximum(pixels, 0), size).astype(np.int64)
