"""Images with very many boxes: the same pairs in a memory that does not grow with their product."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from condinst_deploy.evaluation.agreement import Instances, matched_pairs, paired_box_ious


def instances(boxes: Any, labels: Any) -> Instances:
    array = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    scores = np.linspace(1, 0.5, len(array))
    return Instances(array, scores, np.asarray(labels, dtype=np.int64), np.ones(len(array)), None)


def crowd(seed: int, count: int, steps: int) -> Instances:
    """Boxes on a coarse grid, so that many are equal and many IoUs tie."""
    generator = np.random.default_rng(seed)
    corner = generator.integers(0, steps, (count, 2)) * 4.0
    size = generator.integers(2, 5, (count, 2)) * 4.0
    return instances(np.concatenate((corner, corner + size), axis=1), generator.integers(0, 3, count))


@pytest.mark.parametrize("seed", range(8))
def test_the_pairs_are_those_of_all_boxes_at_once(seed: int) -> None:
    sides = crowd(seed, 120, 6), crowd(seed + 100, 90, 6)
    at_once = matched_pairs(*sides)
    assert len(at_once) > 20
    assert matched_pairs(*sides, most_pairs=0).tolist() == at_once.tolist()


@pytest.mark.parametrize("counts", [(0, 5), (5, 0), (0, 0)])
def test_no_boxes_have_no_pairs(counts: tuple[int, int]) -> None:
    assert matched_pairs(crowd(0, counts[0], 3), crowd(1, counts[1], 3), most_pairs=-1).shape == (0, 2)


def test_four_thousand_equal_boxes_match_in_order_within_a_hundred_megabytes() -> None:
    side = instances(np.tile([0.0, 0.0, 9.0, 9.0], (4000, 1)), np.zeros(4000))
    tracemalloc.start()
    pairs = matched_pairs(side, side)
    ious = paired_box_ious(side, side, pairs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert pairs.tolist() == [[i, i] for i in range(4000)]
    assert ious.tolist() == [1.0] * 4000
    assert peak < 100e6
