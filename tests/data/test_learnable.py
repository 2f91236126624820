"""Objects that training assigns a point to."""

import numpy as np
import torch

from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.data.learnable import learnable
from condinst_deploy.model.targets import ImageTargets, assign, locations_at

WIDTH, HEIGHT = 200, 160
PREPROCESSING = Preprocessing(short_side=160, long_side=320)


def test_objects_are_learnable_where_training_assigns_a_point() -> None:
    """Against the targets themselves, for rectangles of all sizes in one image."""
    rng = np.random.default_rng(0)
    size = ImageGeometry.of((HEIGHT, WIDTH), PREPROCESSING).resized
    assert size == (160, 200)
    corners = np.stack((rng.integers(0, 150, 400), rng.integers(0, 110, 400)), axis=1)
    sides = np.stack((rng.integers(1, 50, 400), rng.integers(1, 50, 400)), axis=1)
    boxes = np.concatenate((corners, corners + sides), axis=1).astype(np.float64)
    sizes = np.tile([HEIGHT, WIDTH], (400, 1))
    found = learnable(boxes, (boxes[:, :2] + boxes[:, 2:]) / 2, sizes, PREPROCESSING, (160,))
    locations, want = locations_at(160, 224, torch.device("cpu")), []
    for x1, y1, x2, y2 in boxes.astype(int).tolist():
        mask = torch.zeros(1, 160, 224, dtype=torch.bool)
        mask[0, y1:y2, x1:x2] = True
        targets = ImageTargets(torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32), torch.zeros(1).long(), mask)
        want.append(len(assign(locations, targets).locations) > 0)
    assert 10 < want.count(False) < 390
    assert found.tolist() == want
