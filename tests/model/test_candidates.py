"""Candidates by the rules of both families: the reference against a loop over locations and classes."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from condinst_deploy.contract import Family, Selection
from condinst_deploy.model.candidates import candidates_from_levels
from condinst_deploy.model.config import SIZES_OF_INTEREST, STRIDES
from condinst_deploy.model.head import LevelOutputs
from tests.support.operations import CandidateCase, candidate_cases

FAMILIES: tuple[Family, ...] = ("mmdet", "adelaidet")
Row = tuple[float, tuple[float, ...], int, tuple[float, ...], float]
"""Score, box, label, point, size of interest."""


def sigmoid(x: Tensor) -> float:
    return 1 / (1 + math.exp(-float(x)))


def plain_candidates(case: CandidateCase, image: int, family: Family) -> list[Row]:
    """Reference: candidates of the families, pair by pair."""
    height, width = case.sizes[image].tolist()
    found: list[Row] = []
    for level, stride, soi in zip(case.levels, STRIDES, SIZES_OF_INTEREST, strict=True):
        pairs: list[tuple[float, Row]] = []
        classes, rows, columns = level.cls_logits.shape[1:]
        for y, x, label in np.ndindex(rows, columns, classes):
            cls, ctr = sigmoid(level.cls_logits[image, label, y, x]), sigmoid(level.centerness[image, 0, y, x])
            rank, score = (cls, cls * ctr) if family == "mmdet" else (cls * ctr, math.sqrt(cls * ctr))
            px, py = (x + 0.5) * stride, (y + 0.5) * stride
            left, top, right, bottom = (level.distances[image, :, y, x] * stride).tolist()
            box = (px - left, py - top, px + right, py + bottom)
            if rank > case.threshold:
                pairs.append((rank, (score, box, label, (px, py), float(soi))))
        pairs.sort(key=lambda pair: -pair[0])
        found += [row for _, row in pairs[: case.limit]]
    return found if family == "adelaidet" else clamped(found, height, width)


def clamped(rows: list[Row], height: int, width: int) -> list[Row]:
    kept = []
    for score, (x1, y1, x2, y2), *rest in rows:
        box = (min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height))
        if box[2] > box[0] and box[3] > box[1]:
            kept.append((score, box, *rest))
    return kept  # type: ignore[return-value]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("case", candidate_cases(), ids=str)
def test_the_reference_finds_what_a_plain_loop_finds(case: CandidateCase, family: Family) -> None:
    selection = Selection(score_threshold=case.threshold, candidates_per_level=case.limit, family=family)
    for image, (height, width) in enumerate(case.sizes.tolist()):
        found = candidates_from_levels(case.levels, image, (height, width), selection)
        want = plain_candidates(case, image, family)
        assert len(found.scores) == len(want)
        for i, (score, box, label, point, soi) in enumerate(want):
            assert found.scores[i].item() == pytest.approx(score, rel=1e-5)
            assert found.boxes[i].tolist() == pytest.approx(box, abs=1e-3)
            assert (found.labels[i].item(), found.soi[i].item()) == (label, soi)
            assert found.points[i].tolist() == list(point)


def test_the_table_tells_the_families_apart() -> None:
    counts = {case.name: [len(plain_candidates(case, 0, family)) for family in FAMILIES] for case in candidate_cases()}
    assert counts["nothing above the threshold"] == [0, 0]
    # many classes are sure enough, hardly a product is
    assert counts["sure classes, poor centerness"][0] > 2 * counts["sure classes, poor centerness"][1]
    # empty boxes go before NMS, or after it
    assert counts["boxes without area"][0] == counts["boxes without height"][0] == 0
    assert counts["boxes without area"][1] > 0


def test_the_threshold_is_strict() -> None:
    cell = torch.zeros(1, 1, 1, 1)  # probabilities of a half
    levels = [LevelOutputs(cell, torch.ones(1, 4, 1, 1), cell, cell)] * len(STRIDES)
    for family, rank in zip(FAMILIES, (0.5, 0.25), strict=True):
        at = Selection(score_threshold=rank, family=family)
        below = Selection(score_threshold=rank - 1e-6, family=family)
        assert len(candidates_from_levels(levels, 0, (96, 96), at).scores) == 0
        assert len(candidates_from_levels(levels, 0, (96, 96), below).scores) == len(STRIDES)
