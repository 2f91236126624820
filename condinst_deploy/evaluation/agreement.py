"""Agreement of two sets of detections of the same images, detection by detection."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.data.annotation_arrays import Ids, id_array
from condinst_deploy.masks import RLE


@dataclass(frozen=True)
class Tolerance:
    """Largest differences allowed between two implementations of the same network."""

    boxes: float  # largest difference of a coordinate, original pixels
    scores: float  # largest difference
    mask_iou: float  # smallest IoU at original size ...
    mask_pixels: int = 0  # ... of masks that differ in more pixels than this: of a small mask, one is a large share

    def __str__(self) -> str:
        or_pixels = f" or at most {self.mask_pixels} px different" if self.mask_pixels else ""
        return (
            f"boxes within {self.boxes:g} px, scores within {self.scores:g},"
            f" mask IoU at least {self.mask_iou:g}{or_pixels}"
        )


MIN_IOU = 0.5
"""Box IoU from which two detections of the same label can be the same instance."""

MOST_PAIRS = 4_000_000
"""Pairs of boxes of an image that are compared at once; above it they are compared one row after the other."""

Pairs = npt.NDArray[np.int64]
"""`(m, 2)` indices into the two sides, the reference's rising."""

ONNX_TOLERANCE = Tolerance(boxes=0.02, scores=2e-5, mask_iou=0.999, mask_pixels=1)
"""An exported file against the PyTorch model, both in float32."""


@dataclass(frozen=True, eq=False)
class Instances:
    """Compared parts of an image's detections; masks stay encoded."""

    boxes: npt.NDArray[np.float64]  # (n, 4) xyxy, original pixels
    scores: npt.NDArray[np.float64]  # (n,)
    labels: Ids  # (n,) label or category id, the same on both sides
    areas: npt.NDArray[np.float64]  # (n,) pixels of the mask, of the box where there is none
    rles: list[RLE] | None  # n masks; None: boxes alone


def instances_from_detections(detections: InstanceDetections) -> Instances:
    """Detections as they come from a `Predictor`."""
    return Instances(
        detections.boxes.astype(np.float64),
        detections.scores.astype(np.float64),
        detections.labels,
        detections.masks.areas.astype(np.float64),
        detections.masks.rle(),
    )


def instances_from_coco(entries: Sequence[Mapping[str, Any]]) -> Instances:
    """Entries of a COCO results file that belong to one image."""
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    rles: list[RLE] | None = None
    areas = boxes[:, 2] * boxes[:, 3]
    if all("segmentation" in entry for entry in entries):
        rles = [
            {"size": rle["size"], "counts": rle["counts"].encode("ascii")}
            for rle in (entry["segmentation"] for entry in entries)
        ]
        areas = np.array([coco_mask.area(rle) for rle in rles], dtype=np.float64)
    boxes[:, 2:] += boxes[:, :2]  # xywh -> xyxy
    return Instances(
        boxes,
        np.array([entry["score"] for entry in entries], dtype=np.float64),
        id_array([entry["category_id"] for entry in entries]),
        areas,
        rles,
    )


@dataclass(frozen=True, eq=False)
class Agreement:
    """Metrics of a comparison; the arrays have one entry a matched pair."""

    reference_count: int
    other_count: int
    box_errors: npt.NDArray[np.float64]  # (m,) largest difference of a coordinate, original pixels
    score_errors: npt.NDArray[np.float64]  # (m,)
    mask_ious: npt.NDArray[np.float64]  # (m,)
    mask_pixels: npt.NDArray[np.float64]  # (m,) pixels that are in one of the two masks alone

    @property
    def matched(self) -> int:
        """Number of matched pairs."""
        return len(self.box_errors)

    @property
    def same_set(self) -> bool:
        """Return whether every detection of either side has its partner on the other."""
        return self.matched == self.reference_count == self.other_count

    @property
    def matched_share(self) -> float:
        """Share of the detections of both sides that have a partner; 1 where there are none."""
        total = self.reference_count + self.other_count
        return 2 * self.matched / total if total else 1.0

    def within(self, tolerance: Tolerance) -> bool:
        """Return whether all detections are matched and every pair is within the tolerance."""
        if not self.same_set:
            return False
        if self.matched == 0:
            return True
        return bool(
            self.box_errors.max() <= tolerance.boxes
            and self.score_errors.max() <= tolerance.scores
            and ((self.mask_ious >= tolerance.mask_iou) | (self.mask_pixels <= tolerance.mask_pixels)).all()
        )

    def summary(self) -> dict[str, Any]:
        """The metrics that a report shows; worst values are None if nothing matched."""
        worst = self.matched > 0
        return {
            "reference": self.reference_count,
            "other": self.other_count,
            "matched": self.matched,
            "max_box_error_px": float(self.box_errors.max()) if worst else None,
            "max_score_error": float(self.score_errors.max()) if worst else None,
            "min_mask_iou": float(self.mask_ious.min()) if worst else None,
        }

    def __str__(self) -> str:
        if not self.matched:
            return f"0 of {self.reference_count} detections matched ({self.other_count} on the other side)"
        worst = int(self.mask_ious.argmin())
        pixels = f" ({self.mask_pixels[worst]:.0f} px different)" if self.mask_pixels[worst] > 0 else ""
        return (
            f"{self.matched} of {self.reference_count} detections matched ({self.other_count} on the other side),"
            f" boxes within {self.box_errors.max():.2g} px, scores within {self.score_errors.max():.2g},"
            f" mask IoU at least {self.mask_ious[worst]:.6f}{pixels}"
        )


def agreement(reference: InstanceDetections, other: InstanceDetections, min_iou: float = MIN_IOU) -> Agreement:
    """Compare two sets of detections of one image.

    A pair has the same label and a box IoU of at least `min_iou`; pairs are made greedily by falling IoU,
    never by order: neighbouring scores can be closer than two implementations' rounding.
    """
    sides = instances_from_detections(reference), instances_from_detections(other)
    return agreement_of(*sides, matched_pairs(*sides, min_iou))


def agreement_of(reference: Instances, other: Instances, pairs: Pairs) -> Agreement:
    """Metrics of two sets that have been matched already."""
    left, right = pairs[:, 0], pairs[:, 1]
    ious = _paired_mask_ious(reference, other, pairs)
    return Agreement(
        len(reference.scores),
        len(other.scores),
        np.abs(reference.boxes[left] - other.boxes[right]).max(axis=1, initial=0),
        np.abs(reference.scores[left] - other.scores[right]),
        ious,
        # areas a + b = union + intersection = union (1 + IoU)
        np.rint((reference.areas[left] + other.areas[right]) * (1 - ious) / (1 + ious)),
    )


def merged(parts: Iterable[Agreement]) -> Agreement:
    """One agreement over several images."""
    items = list(parts)
    empty = [np.zeros(0)]
    return Agreement(
        sum(a.reference_count for a in items),
        sum(a.other_count for a in items),
        np.concatenate(empty + [a.box_errors for a in items]),
        np.concatenate(empty + [a.score_errors for a in items]),
        np.concatenate(empty + [a.mask_ious for a in items]),
        np.concatenate(empty + [a.mask_pixels for a in items]),
    )


def box_ious(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """IoU of every box `a (n, 4)` with every box `b (m, 4)`: `(n, m)`."""
    a64, b64 = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.minimum(a64[..., 2:], b64[..., 2:]) - np.maximum(a64[..., :2], b64[..., :2])
    overlap = sides.clip(min=0).prod(axis=2)
    union = (a64[..., 2:] - a64[..., :2]).prod(axis=2) + (b64[..., 2:] - b64[..., :2]).prod(axis=2) - overlap
    ious: npt.NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return ious


def matched_pairs(
    reference: Instances, other: Instances, min_iou: float = MIN_IOU, most_pairs: int = MOST_PAIRS
) -> Pairs:
    """Return index pairs `(m, 2)` of the instances of both sides that are taken for the same one (see `agreement`).

    Args:
        reference: one side.
        other: the other side.
        min_iou: least box IoU of a pair.
        most_pairs: IoUs of more pairs are computed row by row, in less memory and more time.
    """
    if len(reference.labels) * len(other.labels) > most_pairs:
        return _matched_one_by_one(reference, other, min_iou)
    ious = _overlaps(reference.boxes, other.boxes)
    ious[reference.labels[:, None] != other.labels[None]] = -1
    candidates = np.argwhere(ious >= min_iou)
    order = np.argsort(-ious[tuple(candidates.T)], kind="stable")
    used_left, used_right, pairs = set(), set(), []
    for i, j in candidates[order].tolist():
        if i not in used_left and j not in used_right:
            used_left.add(i)
            used_right.add(j)
            pairs.append((i, j))
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _matched_one_by_one(reference: Instances, other: Instances, min_iou: float) -> Pairs:
    """`matched_pairs` in memory that grows with the boxes, and not with their pairs.

    Each instance of the reference waits in a heap with the best partner that was free when it was looked up. If the
    partner of the first instance is taken by now, the instance is looked up again.
    """
    free = np.ones(len(other.labels), dtype=np.bool_)

    def best(i: int) -> tuple[float, int, int] | None:
        among = np.flatnonzero(free & (other.labels == reference.labels[i]))
        if not len(among):
            return None
        ious = _overlaps(reference.boxes[i : i + 1], other.boxes[among])[0]
        j = int(ious.argmax())  # of equals the first
        return (-float(ious[j]), i, int(among[j])) if ious[j] >= min_iou else None

    waiting = [entry for entry in map(best, range(len(reference.labels))) if entry is not None]
    heapq.heapify(waiting)
    pairs = []
    while waiting:
        _, i, j = heapq.heappop(waiting)
        if free[j]:
            free[j] = False
            pairs.append((i, j))
        elif (again := best(i)) is not None:
            heapq.heappush(waiting, again)
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def paired_box_ious(reference: Instances, other: Instances, pairs: Pairs) -> npt.NDArray[np.float64]:
    """Box IoU `(m,)` of each pair."""
    a, b = reference.boxes[pairs[:, 0], None], other.boxes[pairs[:, 1], None]
    return np.array([_overlaps(one, two)[0, 0] for one, two in zip(a, b, strict=True)], dtype=np.float64)


def _overlaps(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """IoU of every box with every box; equal ones have 1, those without area, too."""
    ious = box_ious(a, b)
    ious[(a[:, None] == b[None]).all(axis=2)] = 1
    return ious


def _paired_mask_ious(a: Instances, b: Instances, pairs: Pairs) -> npt.NDArray[np.float64]:
    """IoU of the masks of each pair; two empty masks agree, and without masks on a side the IoU is NaN."""
    if a.rles is None or b.rles is None:
        return np.full(len(pairs), np.nan)
    ious = np.ones(len(pairs))
    for k, (i, j) in enumerate(pairs.tolist()):
        if a.areas[i] or b.areas[j]:
            ious[k] = coco_mask.iou([a.rles[i]], [b.rles[j]], [0])[0, 0]
    return ious
