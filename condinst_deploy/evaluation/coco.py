"""Average precision of detections on a COCO-format data set, through pycocotools."""

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from condinst_deploy.runtime.predictor import Predictor


class Precision(NamedTuple):
    """COCO's figures of one kind, 0..1; -1 where there is nothing of that size."""

    ap: float  # mean over IoU 0.50:0.95
    ap50: float
    ap75: float
    small: float
    medium: float
    large: float


def detect_all(
    predictor: Predictor,
    pictures: Sequence[tuple[int, Path]],
    on_picture: Callable[[], None] = lambda: None,
) -> list[dict[str, Any]]:
    """COCO results of `(image id, path)` pairs.

    Raises:
        ImageError: a picture cannot be read.
    """
    results: list[dict[str, Any]] = []
    predictions = predictor.stream([path for _, path in pictures])
    for (image_id, _), prediction in zip(pictures, predictions, strict=True):
        if prediction.error is not None:
            raise prediction.error
        assert prediction.detections is not None
        results += prediction.detections.to_coco(image_id)
        on_picture()
    return results


def average_precision(truth: COCO, results: Sequence[dict[str, Any]], kind: str) -> Precision:
    """AP of boxes (`kind="bbox"`) or masks (`"segm"`) over all pictures of the data set."""
    if not results:
        return Precision(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        evaluation = COCOeval(truth, truth.loadRes([dict(entry) for entry in results]), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return Precision(*(float(value) for value in np.asarray(evaluation.stats)[:6]))


def ground_truth(annotations: Path) -> COCO:
    """Load a COCO annotation file without pycocotools' remarks."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(annotations))
