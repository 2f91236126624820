"""Score thresholds that evaluation recommends, and what is confused with what at the recommended one.

Detections are matched as COCO's evaluation matches them at an IoU of 0.5: for each image and class the detections, by
falling score and at most 100, take the annotated object of the highest IoU that is still free; a detection on a crowd
does not count. Masks are compared if the results and the data set have masks, else boxes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from condinst_deploy.data.annotation_arrays import Ids, id_array
from condinst_deploy.evaluation.coco_metrics import KIND_NAMES, Entry, Kind
from condinst_deploy.evaluation.ground_truth import GroundTruth
from condinst_deploy.evaluation.results_reader import by_image, kinds_of

MIN_IOU = 0.5
MOST = 100
"""Most detections of an image and class that are evaluated, as in COCO."""

FREE, IGNORED = -1, -2
"""Match of a detection that has no object: nothing, or a crowd."""


@dataclass(frozen=True)
class OperatingPoint:
    """The score of the best F1, and precision and recall there; None if nothing is annotated or found.

    Attributes:
        objects: annotated objects without crowds.
        threshold: keep detections with a higher score. It is halfway between the lowest score that is kept
            and the highest one that is not.
        f1: harmonic mean of precision and recall, 0 to 1.
        precision: share of the kept detections that are right.
        recall: share of the objects that are found.
    """

    objects: int
    threshold: float | None = None
    f1: float | None = None
    precision: float | None = None
    recall: float | None = None


@dataclass(frozen=True)
class OperatingPoints:
    """Operating points of one side.

    Attributes:
        kind: what was matched, boxes or masks.
        overall: of one threshold for all classes.
        classes: by category id.
        confusion: `(category annotated, category found) -> count` of the detections above the overall threshold. None
            as the first one: nothing is annotated there. None as the second one: the object is not found.
    """

    kind: Kind
    overall: OperatingPoint
    classes: Mapping[int, OperatingPoint]
    confusion: Mapping[tuple[int | None, int | None], int]


@dataclass(frozen=True, eq=False)
class _Matched:
    """Detections and objects of one image, after matching within the classes."""

    shapes: list[Any]  # of the detections, as coco_mask.iou takes them
    categories: Ids  # (n,)
    scores: npt.NDArray[np.float64]  # (n,)
    partners: npt.NDArray[np.int64]  # (n,) index of the object, FREE or IGNORED
    objects: list[Any]  # shapes of the m objects that are no crowds
    object_categories: Ids  # (m,)


def operating_points(entries: Sequence[Entry], ground_truth: GroundTruth, lowest: float = 0.0) -> OperatingPoints:
    """Find the best thresholds of results on a data set, and the confusions at the overall one.

    Args:
        entries: detections.
        ground_truth: the data set.
        lowest: the threshold that the results were made with; no lower one is recommended.
    """
    kind = kinds_of(entries, ground_truth)[-1]
    found = by_image(entries)
    images = [_matched_image(found.get(i, ()), i, kind, ground_truth) for i in ground_truth.image_ids]
    none = np.zeros(0)
    categories = np.concatenate([none.astype(np.int64)] + [image.categories for image in images])
    scores = np.concatenate([none] + [image.scores for image in images])
    partners = np.concatenate([none.astype(np.int64)] + [image.partners for image in images])
    objects = np.concatenate([none.astype(np.int64)] + [image.object_categories for image in images])
    overall = best_point(scores, partners, len(objects), lowest)
    classes = {}
    for category in ground_truth.category_ids:
        own = categories == category
        classes[category] = best_point(scores[own], partners[own], int((objects == category).sum()), lowest)
    confusion: dict[tuple[int | None, int | None], int] = {}
    if overall.threshold is not None:
        for image in images:
            for pair in _pairs(image, overall.threshold):
                confusion[pair] = confusion.get(pair, 0) + 1
    return OperatingPoints(kind, overall, classes, confusion)


def best_point(
    scores: npt.NDArray[np.float64], partners: npt.NDArray[np.int64], objects: int, lowest: float = 0.0
) -> OperatingPoint:
    """Return the point of the best F1; of equal ones that of the highest score.

    Args:
        scores: `(n,)` of the detections.
        partners: `(n,)` at least 0: a right one, -1: a wrong one, -2: it does not count.
        objects: that could be found.
        lowest: threshold that all scores are above.
    """
    order = np.argsort(-scores, kind="stable")
    scores, partners = scores[order], partners[order]
    right, wrong = np.cumsum(partners >= 0), np.cumsum(partners == FREE)
    # detections of equal score are kept together or not at all
    last = np.flatnonzero(np.append(scores[1:] < scores[:-1], True)) if len(scores) else np.zeros(0, dtype=np.int64)
    last = last[scores[last] != 0]  # no threshold from 0 on keeps a score of 0
    if objects == 0 or len(last) == 0 or right[last[-1]] == 0:
        return OperatingPoint(objects)
    f1 = 2 * right[last] / (right[last] + wrong[last] + objects)
    best = int(f1.argmax())
    at = last[best]
    below = float(scores[at + 1]) if at + 1 < len(scores) else lowest
    return OperatingPoint(
        objects,
        threshold=_between(below, float(scores[at])),
        f1=float(f1[best]),
        precision=float(right[at] / (right[at] + wrong[at])),
        recall=float(right[at] / objects),
    )


def _between(below: float, kept: float) -> float:
    """A threshold that a score of `kept` is above; one of `below` is not, unless that is as high.

    Models' scores are float32, and are compared with the threshold in float32: rounded to it, `kept` is above, too.
    """
    if below >= kept:
        return math.nextafter(kept, -math.inf)
    middle = below / 2 + kept / 2
    with np.errstate(over="ignore"):  # a results file may have any scores
        is_apart = below <= middle < kept and np.float32(middle) < np.float32(kept)
    return middle if is_apart else below  # neighbouring numbers have no middle


def points_json(points: OperatingPoints, ground_truth: GroundTruth) -> dict[str, Any]:
    """Return the points as plain values; `load_thresholds` reads them."""
    names: dict[int | None, str | None] = {i: ground_truth.name_of(i) for i in ground_truth.category_ids}
    names[None] = None
    return {
        "of": KIND_NAMES[points.kind],
        "iou": MIN_IOU,
        "overall": vars(points.overall),
        "per_class": [
            {"category_id": category, "name": names[category], **vars(point)}
            for category, point in points.classes.items()
        ],
        "confusion": [
            {"annotated": names[annotated], "found": names[found], "count": count}
            for (annotated, found), count in most_confused(points)
        ],
    }


def most_confused(points: OperatingPoints) -> list[tuple[tuple[int | None, int | None], int]]:
    """Return the confusion table as a list, the largest counts first."""

    def key(item: tuple[tuple[int | None, int | None], int]) -> tuple[int, bool, int, bool, int]:
        (annotated, found), count = item
        return -count, annotated is not None, annotated or 0, found is not None, found or 0

    return sorted(points.confusion.items(), key=key)


def _matched_image(entries: Sequence[Entry], image_id: int, kind: Kind, ground_truth: GroundTruth) -> _Matched:
    coco = ground_truth.coco
    annotations = coco.imgToAnns.get(image_id, [])
    objects = [a for a in annotations if not a["iscrowd"]]
    crowds = [a for a in annotations if a["iscrowd"]]
    categories = id_array([entry["category_id"] for entry in entries])
    scores = np.array([entry["score"] for entry in entries], dtype=np.float64)
    shapes = [entry["bbox"] if kind == "bbox" else _encoded(entry["segmentation"]) for entry in entries]
    partners = np.full(len(entries), IGNORED, dtype=np.int64)
    object_shapes = [_shape(a, kind, coco) for a in objects]
    for category in set(categories.tolist()):
        chosen = np.flatnonzero(categories == category)
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")][:MOST]
        same = [j for j, a in enumerate(objects) if a["category_id"] == category]
        others = [_shape(a, kind, coco) for a in crowds if a["category_id"] == category]
        own = [shapes[i] for i in chosen]
        taken = _greedy(_ious(own, [object_shapes[j] for j in same], crowd=False))
        on_crowd: list[bool] = np.any(_ious(own, others, crowd=True) >= MIN_IOU, axis=1).tolist()
        partners[chosen] = [
            same[j] if j >= 0 else IGNORED if crowd else FREE for j, crowd in zip(taken, on_crowd, strict=True)
        ]
    object_categories = id_array([a["category_id"] for a in objects])
    return _Matched(shapes, categories, scores, partners, object_shapes, object_categories)


def _greedy(ious: npt.NDArray[np.float64]) -> list[int]:
    """Give each row in turn the free column of the highest IoU from 0.5 on; -1 where there is none."""
    ious = ious.copy()
    taken = []
    for row in ious:
        best = int(row.argmax()) if len(row) else -1
        if best < 0 or row[best] < MIN_IOU:
            taken.append(-1)
            continue
        taken.append(best)
        ious[:, best] = -1
    return taken


def _pairs(image: _Matched, threshold: float) -> list[tuple[int | None, int | None]]:
    """Return `(annotated, found)` of every object and of every detection above the threshold in an image.

    Objects and detections that have no partner in their own class are matched across the classes, by falling IoU.
    """
    kept = image.scores > threshold
    right = np.flatnonzero(kept & (image.partners >= 0))
    lone = np.flatnonzero(kept & (image.partners == FREE))
    missed = np.setdiff1d(np.arange(len(image.objects)), image.partners[right])
    pairs: list[tuple[int | None, int | None]] = [(int(image.categories[i]), int(image.categories[i])) for i in right]
    ious = _ious([image.shapes[i] for i in lone], [image.objects[j] for j in missed], crowd=False)
    # an object may still be overlapped by a detection of its class: one that came after a better one
    ious[image.categories[lone][:, None] == image.object_categories[missed][None]] = -1
    used_rows, used_columns = set(), set()
    candidates = np.argwhere(ious >= MIN_IOU)
    for row, column in candidates[np.argsort(-ious[tuple(candidates.T)], kind="stable")].tolist():
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            pairs.append((int(image.object_categories[missed[column]]), int(image.categories[lone[row]])))
    pairs += [(None, int(image.categories[i])) for row, i in enumerate(lone) if row not in used_rows]
    pairs += [(int(image.object_categories[j]), None) for column, j in enumerate(missed) if column not in used_columns]
    return pairs


def _ious(detections: list[Any], objects: list[Any], crowd: bool) -> npt.NDArray[np.float64]:
    """Return IoU `(n, m)`; for a crowd, the share of the detection inside it."""
    if not detections or not objects:
        return np.zeros((len(detections), len(objects)))
    return np.asarray(coco_mask.iou(detections, objects, [int(crowd)] * len(objects)), dtype=np.float64)


def _shape(annotation: Entry, kind: Kind, coco: Any) -> Any:
    return annotation["bbox"] if kind == "bbox" else coco.annToRLE(annotation)


def _encoded(segmentation: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": segmentation["size"], "counts": segmentation["counts"].encode("ascii")}
