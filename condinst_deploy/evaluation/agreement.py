"""How far two sets of detections of the same pictures agree, detection by detection."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from condinst_deploy.contract import FloatArray, InstanceDetections


@dataclass(frozen=True)
class Tolerance:
    """What may differ between two implementations of the same network."""

    boxes: float  # largest difference of a coordinate, original pixels
    scores: float  # largest difference
    mask_iou: float  # smallest IoU at original size

    def __str__(self) -> str:
        return f"boxes within {self.boxes:g} px, scores within {self.scores:g}, mask IoU at least {self.mask_iou:g}"


ONNX_TOLERANCE = Tolerance(boxes=0.02, scores=2e-5, mask_iou=0.999)
"""An exported file against the PyTorch model, both in float32."""


@dataclass(frozen=True, eq=False)
class Agreement:
    """Figures of a comparison; the arrays have one entry a matched pair."""

    reference_count: int
    other_count: int
    box_errors: npt.NDArray[np.float64]  # (m,) largest difference of a coordinate, original pixels
    score_errors: npt.NDArray[np.float64]  # (m,)
    mask_ious: npt.NDArray[np.float64]  # (m,)

    @property
    def matched(self) -> int:
        """Number of matched pairs."""
        return len(self.box_errors)

    @property
    def same_set(self) -> bool:
        """Whether every detection of either side has its partner on the other."""
        return self.matched == self.reference_count == self.other_count

    def within(self, tolerance: Tolerance) -> bool:
        """Whether it is the same set and every pair is within the tolerance."""
        if not self.same_set:
            return False
        if self.matched == 0:
            return True
        return bool(
            self.box_errors.max() <= tolerance.boxes
            and self.score_errors.max() <= tolerance.scores
            and self.mask_ious.min() >= tolerance.mask_iou
        )

    def summary(self) -> dict[str, Any]:
        """The figures that a report shows; worst values are None where nothing matched."""
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
        return (
            f"{self.matched} of {self.reference_count} detections matched ({self.other_count} on the other side),"
            f" boxes within {self.box_errors.max():.2g} px, scores within {self.score_errors.max():.2g},"
            f" mask IoU at least {self.mask_ious.min():.6f}"
        )


def agreement(reference: InstanceDetections, other: InstanceDetections, min_iou: float = 0.5) -> Agreement:
    """Compare two sets of detections of one picture.

    A pair has the same label and a box IoU of at least `min_iou`; pairs are made greedily by falling IoU,
    never by order: neighbouring scores can be closer than two implementations' rounding.
    """
    pairs = _pairs(reference, other, min_iou)
    left, right = pairs[:, 0], pairs[:, 1]
    box_errors = np.abs(reference.boxes[left].astype(np.float64) - other.boxes[right]).max(axis=1, initial=0)
    score_errors = np.abs(reference.scores[left].astype(np.float64) - other.scores[right])
    mask_ious = _paired_mask_ious(reference[left], other[right])
    return Agreement(len(reference), len(other), box_errors, score_errors, mask_ious)


def merged(parts: Iterable[Agreement]) -> Agreement:
    """One agreement over several pictures."""
    items = list(parts)
    empty = [np.zeros(0)]
    return Agreement(
        sum(a.reference_count for a in items),
        sum(a.other_count for a in items),
        np.concatenate(empty + [a.box_errors for a in items]),
        np.concatenate(empty + [a.score_errors for a in items]),
        np.concatenate(empty + [a.mask_ious for a in items]),
    )


def box_ious(a: FloatArray, b: FloatArray) -> npt.NDArray[np.float64]:
    """IoU of every box `a (n, 4)` with every box `b (m, 4)`: `(n, m)`."""
    a64, b64 = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.minimum(a64[..., 2:], b64[..., 2:]) - np.maximum(a64[..., :2], b64[..., :2])
    overlap = sides.clip(min=0).prod(axis=2)
    union = (a64[..., 2:] - a64[..., :2]).prod(axis=2) + (b64[..., 2:] - b64[..., :2]).prod(axis=2) - overlap
    ious: npt.NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return ious


def _pairs(reference: InstanceDetections, other: InstanceDetections, min_iou: float) -> npt.NDArray[np.int64]:
    ious = box_ious(reference.boxes, other.boxes)
    ious[(reference.boxes[:, None] == other.boxes[None]).all(axis=2)] = 1  # a box of no area, too
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


def _paired_mask_ious(a: InstanceDetections, b: InstanceDetections) -> npt.NDArray[np.float64]:
    """IoU of the i-th mask of either side; two empty masks agree."""
    ious = [
        1.0 if not area_a and not area_b else float(coco_mask.iou([rle_a], [rle_b], [0])[0, 0])
        for rle_a, rle_b, area_a, area_b in zip(a.masks.rle(), b.masks.rle(), a.masks.areas, b.masks.areas, strict=True)
    ]
    return np.array(ious, dtype=np.float64)
