"""COCO's metrics of detections on a COCO-format data set, through pycocotools."""

import contextlib
import io
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.data.annotation_checks import checked_segmentation, is_crowd, merged_rle
from condinst_deploy.data.coco import boxes_as_masks
from condinst_deploy.data.coco_file import coco_content
from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.pipeline import Prediction
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.support.extras import install_command

Kind = Literal["bbox", "segm"]
Entry = dict[str, Any]
"""One detection of a COCO results file."""

CURVE_IOUS = (0.5, 0.75)
"""IoU thresholds that precision-recall curves are kept for."""


class Metrics(NamedTuple):
    """COCO's twelve metrics of one kind, 0..1; -1 where nothing of that size is annotated."""

    ap: float  # mean over IoU 0.50:0.95
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float
    recall1: float = -1.0  # mean over IoU, with the best detection of each image and class
    recall10: float = -1.0
    recall100: float = -1.0
    recall_small: float = -1.0
    recall_medium: float = -1.0
    recall_large: float = -1.0


METRIC_NAMES = dict(
    zip(
        Metrics._fields,
        ("AP", "AP50", "AP75", "AP small", "AP medium", "AP large")
        + ("AR 1", "AR 10", "AR 100", "AR small", "AR medium", "AR large"),
        strict=True,
    )
)
KIND_NAMES: dict[Kind, str] = {"bbox": "box", "segm": "mask"}
"""Names of the kinds of results in tables."""


@dataclass(frozen=True)
class Scope:
    """Types of results to evaluate, and the library that evaluates them."""

    image_ids: tuple[int, ...] | None = None  # None: all images of the data set
    fast: bool = False  # faster-coco-eval instead of pycocotools


@dataclass(frozen=True, eq=False)
class CocoEvaluation:
    """pycocotools' evaluation of one list of results, for boxes or for masks."""

    metrics: Metrics
    per_class: dict[int, Metrics]  # by category id
    curves: npt.NDArray[np.float64]  # (len(CURVE_IOUS), 101) precision at recall 0, 0.01, ..., 1; mean over classes


def points(metric: float) -> float | None:
    """A metric in AP points, 0..100; None if nothing of that size is annotated."""
    return None if metric < 0 else 100 * metric


def detect_each(
    predictor: Predictor, images: Sequence[tuple[int, Path]]
) -> Generator[tuple[int, Prediction, InstanceDetections], None, None]:
    """Detections of `(image id, path)` pairs, one after the other; close it to end its threads early.

    Raises:
        ImageError: an image cannot be read.
    """
    with contextlib.closing(predictor.stream([path for _, path in images])) as predictions:
        for (image_id, _), prediction in zip(images, predictions, strict=True):
            if prediction.error is not None:
                raise prediction.error
            assert prediction.detections is not None
            yield image_id, prediction, prediction.detections


def detect_all(
    predictor: Predictor,
    images: Sequence[tuple[int, Path]],
    on_image: Callable[[], None] = lambda: None,
) -> list[Entry]:
    """COCO results of `(image id, path)` pairs.

    Raises:
        ImageError: an image cannot be read.
    """
    results: list[Entry] = []
    with contextlib.closing(detect_each(predictor, images)) as found:
        for image_id, _, detections in found:
            results += detections.to_coco(image_id)
            on_image()
    return results


def average_precision(ground_truth: COCO, results: Sequence[Entry], kind: Kind) -> Metrics:
    """Metrics of boxes (`kind="bbox"`) or masks (`"segm"`) over all images of the data set."""
    return evaluate_coco(ground_truth, results, kind).metrics


def evaluate_coco(
    ground_truth: COCO, results: Sequence[Entry], kind: Kind, scope: Scope | None = None
) -> CocoEvaluation:
    """Evaluate results as mmdetection and detectron2 do: masks are small, medium or large by their own area.

    pycocotools would take the box's area where an entry has a box, too.

    Raises:
        BackendError: faster-coco-eval was asked for and is not installed.
    """
    scope = scope or Scope()
    classes = sorted(ground_truth.getCatIds())
    entries = [{k: v for k, v in entry.items() if k != "bbox" or kind == "bbox"} for entry in results]
    numbers = _numbers(ground_truth)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        evaluation = _evaluation(_dataset(ground_truth, numbers), _numbered(entries, numbers), kind, scope.fast)
        if scope.image_ids is not None:
            evaluation.params.imgIds = sorted(numbers["image_id"][image_id] for image_id in scope.image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        # precision (T, R, K, A, M) and recall (T, K, A, M): IoU, recall, class, area, detections an image
        precision, recall = (np.asarray(evaluation.eval[name]) for name in ("precision", "recall"))
        whole = _summarized(evaluation, precision, recall)
        per_class = {
            category: _summarized(evaluation, precision[:, :, k : k + 1], recall[:, k : k + 1])
            for k, category in enumerate(classes)
        }
    return CocoEvaluation(whole, per_class, _curves(precision, np.asarray(evaluation.params.iouThrs)))


def load_coco(annotations: Path, content: dict[str, Any] | None = None, boxes_only: bool = False) -> COCO:
    """A COCO annotation file without pycocotools' remarks, and ready for its evaluation.

    `iscrowd` and `area` may be missing. Ids are renumbered from 1: pycocotools takes a match with the annotation of
    id 0 for none.

    Args:
        annotations: the file.
        content: what `coco_content` read from it, with images and ids that `CocoDataset` accepted; None: read it.
        boxes_only: ignore segmentations; each object's mask is its box. Only boxes can be evaluated.

    Raises:
        DataError: an object's segmentation is missing or damaged. Those that are no training targets (crowds, tiny
            ones) count, too: pycocotools reads them all, in C and unchecked.
    """
    content = coco_content(annotations) if content is None else content
    ground_truth = COCO()
    ground_truth.dataset = {name: content[name] for name in ("images", "categories")}
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    entries = boxes_as_masks(content["annotations"]) if boxes_only else content["annotations"]
    ground_truth.dataset["annotations"] = [
        _object(entry, number, sizes[entry["image_id"]], f"{annotations}: annotation {entry.get('id')}")
        for number, entry in enumerate(entries, start=1)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex()
    return ground_truth


def _object(entry: Entry, number: int, size: tuple[int, int], where: str) -> Entry:
    """A copy of an annotation with all fields that pycocotools needs."""
    crowd = int(is_crowd(entry, where))
    segmentation = checked_segmentation(entry.get("segmentation"), size, where)
    area = entry["area"] if "area" in entry else float(coco_mask.area(merged_rle(segmentation, size)))
    return entry | {"id": number, "iscrowd": crowd, "area": area}


def check_library(fast: bool) -> None:
    """Check that the library of a `Scope` is there.

    Raises:
        BackendError: faster-coco-eval was asked for and is not installed.
    """
    if fast:
        _faster_coco_eval()


def _faster_coco_eval() -> Any:
    try:
        import faster_coco_eval
    except ImportError as e:
        raise BackendError(f"--fast needs faster-coco-eval: {install_command('eval')}, or leave --fast out") from e
    return faster_coco_eval


def _numbers(ground_truth: COCO) -> dict[str, dict[int, int]]:
    """Numbers from 1 for the ids of images and categories, in the ids' order.

    faster-coco-eval keeps ids as float64, which is not exact for large ids, and refuses negative ones.
    """
    ids = {"image_id": ground_truth.imgs, "category_id": ground_truth.cats}
    return {key: {number: n for n, number in enumerate(sorted(known), start=1)} for key, known in ids.items()}


def _numbered(entries: Iterable[Entry], numbers: dict[str, dict[int, int]]) -> list[Entry]:
    """Copies with new ids; an id that the data set does not have becomes 0."""
    return [entry | {key: own.get(entry[key], 0) for key, own in numbers.items()} for entry in entries]


def _dataset(ground_truth: COCO, numbers: dict[str, dict[int, int]]) -> dict[str, Any]:
    dataset = ground_truth.dataset
    renamed = {"images": numbers["image_id"], "categories": numbers["category_id"]}
    lists = {name: [e | {"id": own[e["id"]]} for e in dataset[name]] for name, own in renamed.items()}
    return lists | {"annotations": _numbered(dataset["annotations"], numbers)}


def _evaluation(dataset: dict[str, Any], entries: list[Entry], kind: Kind, fast: bool) -> Any:
    if fast:
        faster_coco_eval = _faster_coco_eval()
        copied = faster_coco_eval.COCO(dataset)
        return faster_coco_eval.COCOeval_faster(copied, _loaded(copied, entries), kind, print_function=print)
    ground_truth = COCO()
    ground_truth.dataset = dataset
    ground_truth.createIndex()
    return COCOeval(ground_truth, _loaded(ground_truth, entries), kind)


def _loaded(ground_truth: Any, entries: list[Entry]) -> Any:
    """Results as the library wants them; its own `loadRes` fails on an empty list."""
    if entries:
        return ground_truth.loadRes(entries)
    empty = type(ground_truth)()
    empty.dataset = {name: ground_truth.dataset[name] for name in ("images", "categories")} | {"annotations": []}
    empty.createIndex()
    return empty


def _summarized(evaluation: Any, precision: npt.NDArray[np.float64], recall: npt.NDArray[np.float64]) -> Metrics:
    """The library's own summary of all classes, or of those left in the arrays."""
    evaluation.eval = {**evaluation.eval, "precision": precision, "recall": recall}
    evaluation.summarize()
    return Metrics(*(float(value) for value in np.asarray(evaluation.stats)[:12]))


def _curves(precision: npt.NDArray[np.float64], thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    at = [int(np.argmin(np.abs(thresholds - iou))) for iou in CURVE_IOUS]
    chosen = precision[at, :, :, 0, -1]  # (T, R, K), all areas, 100 detections
    annotated = chosen[:, :, (chosen[0] >= 0).all(axis=0)]
    if annotated.shape[2] == 0:
        return np.zeros(annotated.shape[:2])
    mean: npt.NDArray[np.float64] = annotated.mean(axis=2)
    return mean
