"""Outputs are compared detection with detection, wherever a precision puts them."""

import numpy as np
import numpy.typing as npt
import pytest

from condinst_engines.slots import Arrays, Matched, matched_outputs

SLOTS = 4


def outputs(*found: tuple[float, float, int]) -> Arrays:
    """A batch of one image: left side of a box of 10 x 10, score and label of each slot."""
    rows = np.array([*found, *[(0.0, 0.0, 0)] * (SLOTS - len(found))])
    left: npt.NDArray[np.float32] = rows[:, 0].astype(np.float32)
    top = np.zeros_like(left)
    used = np.arange(SLOTS) < len(found)
    return {
        "num_detections": np.array([len(found)], dtype=np.int32),
        "boxes": (np.stack((left, top, left + 10, top + 10), axis=1) * used[:, None])[None],
        "scores": rows[None, :, 1].astype(np.float32),
        "labels": rows[None, :, 2].astype(np.int32),
        "mask_logits": np.broadcast_to(left[None, :, None, None], (1, SLOTS, 2, 3)),
    }


def test_detections_of_equal_score_that_changed_places_do_not_differ() -> None:
    first = outputs((0, 0.9, 1), (120, 0.5, 0), (240, 0.5, 0))
    second = outputs((0, 0.9, 1), (240, 0.5, 0), (120, 0.5, 0))
    ours, others, counts = matched_outputs(first, second)
    assert counts == Matched(first=3, second=3, pairs=3)
    assert all(np.array_equal(ours[name], others[name]) for name in first)
    assert ours["boxes"][:, 0].tolist() == [0, 120, 240]
    assert ours["mask_logits"].shape == (3, 2, 3)


def test_what_differs_in_a_matched_detection_stays_to_be_seen() -> None:
    ours, others, _ = matched_outputs(outputs((0, 0.9, 1), (50, 0.5, 0)), outputs((52, 0.6, 0), (0, 0.5, 1)))
    assert (others["boxes"] - ours["boxes"])[:, 0].tolist() == [0, 2]
    assert (others["scores"] - ours["scores"]).tolist() == pytest.approx([-0.4, 0.1])


def test_what_only_one_side_has_is_counted_and_left_out() -> None:
    first, second = outputs((0, 0.9, 1), (50, 0.5, 0)), outputs((0, 0.9, 0), (50, 0.5, 0), (90, 0.4, 2))
    ours, others, counts = matched_outputs(first, second)
    assert counts == Matched(first=2, second=3, pairs=1)
    assert ours["boxes"][:, 0].tolist() == others["boxes"][:, 0].tolist() == [50]
    assert (ours["num_detections"].tolist(), others["num_detections"].tolist()) == ([2], [3])


def test_without_detections_there_is_nothing_to_compare() -> None:
    ours, _, counts = matched_outputs(outputs(), outputs((0, 0.9, 1)))
    assert counts == Matched(first=0, second=1, pairs=0)
    assert ours["mask_logits"].shape == (0, 2, 3)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_box_that_is_no_box_has_no_partner(broken: float) -> None:
    ours, _, counts = matched_outputs(outputs((0, 0.9, 1), (50, 0.5, 0)), outputs((broken, 0.9, 1), (50, 0.5, 0)))
    assert counts.pairs == len(ours["boxes"]) == 1


def test_images_of_a_batch_are_matched_apart() -> None:
    a, b = outputs((0, 0.9, 1)), outputs((50, 0.9, 1))
    batch = {name: np.concatenate((a[name], b[name])) for name in a}
    swapped = {name: np.concatenate((b[name], a[name])) for name in a}
    assert matched_outputs(batch, batch)[2] == Matched(2, 2, 2)
    assert matched_outputs(batch, swapped)[2].pairs == 0
