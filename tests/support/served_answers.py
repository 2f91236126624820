"""A served model's answers, as a fake server gives them."""

from typing import Any

import numpy as np

from condinst_deploy.masks import Masks
from condinst_deploy.serving.protocol import BOXES, IMAGE_SIZE, LABELS, RLE_COUNTS, SCORES
from tests.support.fake_server import Answer, FakeServer, encoded_answer
from tests.support.models import SLIM, manifest_of

MANIFEST = manifest_of(SLIM)

IMAGE = np.zeros((8, 8, 3), dtype=np.uint8)

SIZE = (6, 4)

DENSE = np.zeros((2, *SIZE), dtype=bool)
DENSE[0, 1:3, 1:3] = DENSE[1, 5, :] = True


def outputs(**changes: Any) -> dict[str, Any]:
    """The outputs of an answer with two instances; a change of None leaves one out."""
    values = {
        BOXES: np.array([[[1, 1, 3, 3], [0, 5, 4, 6]]], dtype=np.float32),
        SCORES: np.array([[0.9, 0.8]], dtype=np.float32),
        LABELS: np.array([[1, 0]], dtype=np.int32),
        IMAGE_SIZE: np.array([SIZE], dtype=np.int32),
        RLE_COUNTS: [rle["counts"] for rle in Masks.from_dense(DENSE).rle()],
    }
    return {name: value for name, value in (values | changes).items() if value is not None}


def good(*_: Any) -> Answer:
    return encoded_answer(outputs())


def inferences(server: FakeServer) -> int:
    return sum(path.endswith("/infer") for path in server.paths)
