"""Images for the tests of predictors, and what has to hold of their results."""

from typing import Any

import numpy as np

from condinst_deploy.contract import InstanceDetections
from tests.support.models import noise_image

BACKENDS = ["torch", "onnxruntime"]


IMAGE = noise_image(0, 128, 200)


SAME_PADDED = [noise_image(seed, height, 200) for seed, height in enumerate((128, 126, 120, 127, 125))]


MIXED = [noise_image(seed, *size) for seed, size in enumerate(((128, 200), (90, 60), (128, 200), (100, 300), (90, 60)))]


def assert_equal(detections: InstanceDetections, expected: InstanceDetections) -> None:
    np.testing.assert_array_equal(detections.boxes, expected.boxes)
    np.testing.assert_array_equal(detections.scores, expected.scores)
    np.testing.assert_array_equal(detections.labels, expected.labels)
    np.testing.assert_array_equal(np.asarray(detections.masks), np.asarray(expected.masks))


def same(a: InstanceDetections, b: InstanceDetections) -> bool:
    """Whether two results are equal bit by bit."""
    fields = ("boxes", "scores", "labels")
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in fields) and a.masks.rle() == b.masks.rle()


def assert_about_equal(detections: InstanceDetections, expected: InstanceDetections) -> None:
    """Of ONNX Runtime on batches of other sizes: sums of other orders."""
    assert len(detections) == len(expected) > 0
    np.testing.assert_allclose(detections.boxes, expected.boxes, atol=1e-2)
    np.testing.assert_allclose(detections.scores, expected.scores, atol=1e-4)
    np.testing.assert_array_equal(detections.labels, expected.labels)
    assert np.mean(np.asarray(detections.masks) != np.asarray(expected.masks)) < 1e-3


def assert_well_formed(detections: InstanceDetections, image: np.ndarray[Any, Any]) -> None:
    n, (height, width) = len(detections), image.shape[:2]
    boxes, scores, masks = detections.boxes, detections.scores, np.asarray(detections.masks)
    assert (boxes.shape, masks.shape) == ((n, 4), (n, height, width))
    types = [boxes.dtype.name, scores.dtype.name, detections.labels.dtype.name, masks.dtype.name]
    assert types == ["float32", "float32", "int64", "bool"]
    border = np.array([width, height, width, height]) * (1 + 1e-6)
    assert ((boxes >= 0) & (boxes <= border)).all()
    assert (boxes[:, :2] < boxes[:, 2:]).all()
    assert (np.diff(scores) <= 0).all()
    assert len(detections.names) == len(detections.to_coco(1)) == len(detections.masks.polygons()) == n
    assert detections.draw(image).size == (width, height)
