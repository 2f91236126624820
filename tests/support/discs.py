"""Detections of discs in a row, for tests of what becomes of detections."""

import numpy as np

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.masks import Masks

HEIGHT, WIDTH = 60, 90


def detections(count: int, names: tuple[str, ...] = ("cat", "dog", "owl")) -> InstanceDetections:
    """Discs in a row, sorted by score; the fourth one has no pixels."""
    y, x = np.ogrid[:HEIGHT, :WIDTH]
    centres = [(24 + 2 * i, 12 + 9 * i) for i in range(count)]
    discs = [(y - cy) ** 2 + (x - cx) ** 2 <= (0 if i == 3 else 64) - (i == 3) for i, (cy, cx) in enumerate(centres)]
    boxes = [(cx - 8.25, cy - 8.5, cx + 9.0, cy + 9.75) for cy, cx in centres]
    return InstanceDetections(
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.1, count, dtype=np.float32),
        labels=np.arange(count, dtype=np.int64) % len(names),
        masks=Masks.from_dense(np.array(discs, dtype=np.bool_).reshape(-1, HEIGHT, WIDTH)),
        class_names=names,
        category_ids=tuple(10 * (i + 1) for i in range(len(names))),
    )
