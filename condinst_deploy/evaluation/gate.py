"""The gate: how far a metric may be from the reference's."""

from dataclasses import dataclass

from condinst_deploy.evaluation.coco_metrics import KIND_NAMES, METRIC_NAMES, Kind, points
from condinst_deploy.evaluation.evaluator import Evaluation, Side
from condinst_deploy.evaluation.wording import change_text

GATED = ("ap", "ap50", "ap75", "small", "medium", "large")
"""All average precisions; recalls follow them."""

ROUNDING = 1e-9
"""Tolerance in points, so that a difference of exactly the limit passes."""


@dataclass(frozen=True)
class Failure:
    """A metric that differs by more than the gate allows, in points."""

    side: str
    metric: str
    reference: float
    other: float

    def __str__(self) -> str:
        change = self.other - self.reference
        difference = change_text(change) if abs(change) >= 0.005 else f"{change:+.1g}"
        return f"{self.side}: {self.metric} is {self.other:.2f}, {difference} from the reference's {self.reference:.2f}"


@dataclass(frozen=True)
class NotCompared:
    """Metrics that the reference has and a side has not."""

    side: str
    kind: Kind

    def __str__(self) -> str:
        name = KIND_NAMES[self.kind]
        return f"{self.side}: no {name} AP could be compared, for its results have none; the reference has"


def failures(evaluation: Evaluation, limit: float) -> list[Failure | NotCompared]:
    """Return the failures of a side: AP that differs by more than `limit` points, or cannot be compared."""
    reference, *others = evaluation.sides
    found: list[Failure | NotCompared] = []
    for side in others:
        for kind in reference.coco:
            found += _moved(reference, side, kind, limit) if kind in side.coco else [NotCompared(side.name, kind)]
    return found


def is_moved(change: float | None, limit: float) -> bool:
    """Return whether a difference in points is more than the gate allows."""
    return change is not None and abs(change) > limit + ROUNDING


def compared(evaluation: Evaluation) -> str:
    """Return the name of what the gate compared: "box or mask AP"."""
    return f"{' or '.join(KIND_NAMES[kind] for kind in evaluation.sides[0].coco)} AP"


def _moved(reference: Side, side: Side, kind: Kind, limit: float) -> list[Failure]:
    found = []
    for name in GATED:
        want, have = (points(getattr(s.coco[kind].metrics, name)) for s in (reference, side))
        if want is not None and have is not None and is_moved(have - want, limit):
            found.append(Failure(side.name, f"{KIND_NAMES[kind]} {METRIC_NAMES[name]}", want, have))
    return found
