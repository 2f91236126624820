"""The gate: how far a figure may be from the reference's."""

from dataclasses import dataclass

from condinst_deploy.evaluation.coco import FIGURE_NAMES, KIND_NAMES, points
from condinst_deploy.evaluation.evaluate import Evaluation

GATED = ("ap", "ap50", "ap75", "small", "medium", "large")
"""All average precisions; recalls follow them."""

ROUNDING = 1e-9
"""In points; a difference of exactly the limit passes."""


@dataclass(frozen=True)
class Failure:
    """A figure that differs by more than the gate allows, in points."""

    side: str
    figure: str
    reference: float
    other: float

    def __str__(self) -> str:
        change = self.other - self.reference
        return (
            f"{self.side}: {self.figure} is {self.other:.2f}, {change:+.2f} from the reference's {self.reference:.2f}"
        )


def failures(evaluation: Evaluation, limit: float) -> list[Failure]:
    """Every average precision of boxes and masks that differs from the reference's by more than `limit` points."""
    reference, *others = evaluation.sides
    found = []
    for side in others:
        for kind in (kind for kind in reference.coco if kind in side.coco):
            for name in GATED:
                want, have = (points(getattr(s.coco[kind].figures, name)) for s in (reference, side))
                if want is not None and have is not None and abs(have - want) > limit + ROUNDING:
                    found.append(Failure(side.name, f"{KIND_NAMES[kind]} {FIGURE_NAMES[name]}", want, have))
    return found
