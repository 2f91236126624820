"""SelectInstances: the PyTorch reference against a plain greedy loop."""

import numpy as np
import pytest
import torch

from condinst_deploy.model.select import select_instances
from tests.support.operations import THRESHOLD, SelectCase, select_cases


def greedy(case: SelectCase, image: int) -> list[int]:
    """Class-wise NMS as one would explain it, in float32, one candidate after the other."""
    boxes = case.boxes[image].numpy()
    scores, labels = case.scores[image].numpy(), case.labels[image].numpy()
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for i in sorted(np.flatnonzero(scores > 0).tolist(), key=lambda i: (-scores[i], i)):
        overlaps = False
        for j in kept:
            width = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            height = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            overlap = max(width, np.float32(0)) * max(height, np.float32(0))
            union = areas[i] + areas[j] - overlap
            overlaps |= bool(labels[i] == labels[j] and union > 0 and overlap / union > np.float32(THRESHOLD))
        if not overlaps:
            kept.append(i)
        if len(kept) == case.slots:
            break
    return kept


@pytest.mark.parametrize("case", select_cases(), ids=str)
def test_the_reference_keeps_what_a_greedy_loop_keeps(case: SelectCase) -> None:
    indices, count = select_instances(case.boxes, case.scores, case.labels, THRESHOLD, case.slots)
    for image in range(len(case.boxes)):
        want = greedy(case, image)
        assert count[image] == len(want)
        assert indices[image].tolist() == want + [0] * (case.slots - len(want))


def test_the_table_has_the_cases_that_matter() -> None:
    kept = {case.name: len(greedy(case, 0)) for case in select_cases()}
    assert kept["no candidates"] == 0
    assert kept["everything overlapping"] == 1
    assert kept["same box, other class"] == 4
    assert kept["exactly K"] == 6
    assert kept["K = 1"] == 1
    # of the three boxes that overlap the first one, only the one above the threshold goes
    assert greedy(next(c for c in select_cases() if c.name == "IoU at the threshold"), 0) == [0, 1, 3]


def test_an_infinite_number_of_slots_keeps_all_that_do_not_overlap() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [100.0, 0.0, 110.0, 10.0]]])
    indices, count = select_instances(boxes, torch.tensor([[0.1, 0.2]]), torch.zeros(1, 2), THRESHOLD, 1000)
    assert count.tolist() == [2]
    assert indices[0, :2].tolist() == [1, 0]
