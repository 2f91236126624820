"""Best thresholds and confusions as rows of text, for the terminal and the report."""

from dataclasses import dataclass

from condinst_deploy.evaluation.evaluator import Evaluation, Side
from condinst_deploy.evaluation.ground_truth import GroundTruth
from condinst_deploy.evaluation.operating_points import OperatingPoint, OperatingPoints, most_confused
from condinst_deploy.evaluation.wording import DASH

COLUMNS = ("objects", "threshold", "F1", "precision", "recall")
MOST_CLASSES = 15
"""Classes that a confusion table shows whole; of more, the largest confusions are listed."""

MOST_LISTED = 20
NOTHING, MISSED = "(nothing)", "(not found)"


@dataclass(frozen=True)
class ConfusionTable:
    """Rows of annotated classes, columns of found ones; or the largest confusions where the table would be too large.

    Attributes:
        columns: names of the found classes; empty if there are too many.
        rows: name of the annotated class, and a count for each column.
        largest: `(annotated, found, count)` without what is right, the largest counts first.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[int, ...]], ...]
    largest: tuple[tuple[str, str, int], ...]


def threshold_rows(side: Side, ground_truth: GroundTruth, per_class: bool) -> list[tuple[str, tuple[str, ...]]]:
    """Return a row for all classes, and one for each annotated class: a name and cells for `COLUMNS`."""
    points = side.points
    rows = [("all", _cells(points.overall))]
    if per_class:
        rows += [(ground_truth.name_of(i), _cells(point)) for i, point in points.classes.items() if point.objects]
    return rows


def confusion_table(points: OperatingPoints, evaluation: Evaluation) -> ConfusionTable:
    """Return the confusions at the overall threshold."""
    ground_truth = evaluation.ground_truth
    largest = tuple(
        (
            NOTHING if annotated is None else ground_truth.name_of(annotated),
            MISSED if found is None else ground_truth.name_of(found),
            count,
        )
        for (annotated, found), count in most_confused(points)
        if annotated != found
    )[:MOST_LISTED]
    ids: list[int | None] = [*ground_truth.category_ids, None]
    if len(ids) - 1 > MOST_CLASSES or not points.confusion:
        return ConfusionTable((), (), largest)
    rows = tuple(
        (
            NOTHING if annotated is None else ground_truth.name_of(annotated),
            tuple(points.confusion.get((annotated, found), 0) for found in ids),
        )
        for annotated in ids
    )
    return ConfusionTable((*ground_truth.class_names, MISSED), rows, largest)


def confusion_title(side: Side, whole: bool) -> str:
    """Return what a confusion table shows, and what its rows and columns are; not `whole`: a list of the largest."""
    threshold = side.points.overall.threshold
    at = "" if threshold is None else f" above the score {threshold:.3f}"
    if not whole:
        return f"largest confusions of {side.name}{at}: annotated class, found class, number of objects"
    return f"confusions of {side.name}{at}: rows are annotated classes, columns are found classes"


def _cells(point: OperatingPoint) -> tuple[str, ...]:
    numbers = (point.threshold, point.f1, point.precision, point.recall)
    return f"{point.objects:,}", *(DASH if value is None else f"{value:.3f}" for value in numbers)
