"""Overlays: which colour goes where."""

import numpy as np

from condinst_deploy.imaging.drawing import OPACITY, PALETTE, overlay
from condinst_deploy.masks import Masks

SIDE = 60


def drawn(colours: list[int] | None) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    dense = np.zeros((2, SIDE, SIDE), dtype=np.bool_)
    dense[0, 25:30, 5:10] = dense[1, 45:50, 40:45] = True
    boxes = np.array([(2, 20, 15, 35), (35, 40, 50, 55)], dtype=np.float32)
    black = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
    return np.asarray(overlay(black, boxes, ["", ""], Masks.from_dense(dense), colours))


def blended(colour: int) -> list[int]:
    return [int(value * OPACITY) for value in PALETTE[colour % len(PALETTE)]]


def test_instances_have_colours_in_turn_or_those_asked_for() -> None:
    in_turn, asked_for = drawn(None), drawn([3, len(PALETTE) + 1])
    assert [in_turn[27, 7].tolist(), in_turn[47, 42].tolist()] == [blended(0), blended(1)]
    assert [asked_for[27, 7].tolist(), asked_for[47, 42].tolist()] == [blended(3), blended(1)]
    assert asked_for[28, 2].tolist() == list(PALETTE[3])  # the box's line
