"""Outputs of two files, compared detection by detection instead of slot by slot.

Slots are sorted by score. Where two scores are equal, or differ by less than the precision resolves, detections
change places, and a comparison slot by slot would compare different detections.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract import OUTPUTS
from condinst_deploy.evaluation.agreement import Instances, matched_pairs

Arrays = dict[str, npt.NDArray[Any]]
"""Name -> values, of each of the network's outputs."""

PER_SLOT = tuple(name for name in OUTPUTS if name != "num_detections")


@dataclass(frozen=True)
class Matched:
    """Number of detections, and of those that both sides have."""

    first: int = 0
    second: int = 0
    pairs: int = 0

    def __add__(self, other: "Matched") -> "Matched":
        return Matched(self.first + other.first, self.second + other.second, self.pairs + other.pairs)

    def __str__(self) -> str:
        return f"{self.pairs} of {self.first} detections matched ({self.second} on the other side)"


def matched_outputs(first: Arrays, second: Arrays) -> tuple[Arrays, Arrays, Matched]:
    """The outputs with the slots of matched detections alone, in the same order on both sides.

    Detections are matched as everywhere (`agreement.matched_pairs`): equal label, box IoU of at least 0.5.

    Args:
        first: outputs of a batch, `(B, K, ...)` a slot and `(B,)` counts.
        second: the other's, of the same shapes.

    Returns:
        Both sides, `(m, ...)` for what there is of every slot, and the numbers of detections.
    """
    taken_first: list[tuple[int, int]] = []
    taken_second: list[tuple[int, int]] = []
    for image in range(len(first["boxes"])):
        pairs = matched_pairs(instances_of(first, image), instances_of(second, image))
        taken_first += [(image, slot) for slot in pairs[:, 0].tolist()]
        taken_second += [(image, slot) for slot in pairs[:, 1].tolist()]
    counts = Matched(int(first["num_detections"].sum()), int(second["num_detections"].sum()), len(taken_first))
    return _taken(first, taken_first), _taken(second, taken_second), counts


def instances_of(outputs: Arrays, image: int) -> Instances:
    """The detections of an image of a batch, without masks."""
    count = int(outputs["num_detections"][image])
    boxes = np.nan_to_num(outputs["boxes"][image, :count].astype(np.float64), posinf=0.0, neginf=0.0)
    scores = outputs["scores"][image, :count].astype(np.float64)
    labels = outputs["labels"][image, :count].astype(np.int64)
    return Instances(boxes, scores, labels, areas=np.zeros(count), rles=None)


def _taken(outputs: Arrays, slots: list[tuple[int, int]]) -> Arrays:
    rows, columns = np.array(slots, dtype=np.int64).reshape(-1, 2).T
    return {name: value[rows, columns] if name in PER_SLOT else value for name, value in outputs.items()}
