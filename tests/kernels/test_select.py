"""The selection kernel against the PyTorch reference, over the operation's table of cases: indices are equal."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from condinst_deploy.kernels.select import CHUNK, MOST_CANDIDATES, SLICE, block_of, constants_of
from condinst_deploy.model.select import select_instances
from tests.support.interpreter import interpreted
from tests.support.operations import THRESHOLD, SelectCase, select_cases


def with_nan() -> SelectCase:
    """The first score and one in the middle are NaN: they are no candidates, and those behind them are."""
    case = next(each for each in select_cases() if each.name == "rising scores")
    scores = case.scores.clone()
    scores[0, [0, 6]] = float("nan")
    return replace(case, name="NaN among the scores", scores=scores)


def overlapping_in_pairs(candidates: int, batch: int = 1) -> SelectCase:
    """More candidates than a slice: the best ones and their rivals lie in different slices and chunks."""
    random = torch.Generator().manual_seed(candidates)
    corner = torch.rand(batch, candidates, 2, generator=random) * torch.tensor([1333.0, 800.0])
    boxes = torch.cat((corner, corner + 20 + 200 * torch.rand(batch, candidates, 2, generator=random)), 2)
    scores = torch.rand(batch, candidates, generator=random)
    scores[:, ::3] = 0.0  # below the threshold
    half = candidates // 2
    boxes[:, half : 2 * half] = boxes[:, :half] + 1.0  # a rival of each candidate of the first half
    labels = torch.randint(3, (batch, half + 1), generator=random).repeat(1, 2)[:, :candidates].int()
    return SelectCase(f"{candidates} candidates", boxes, scores, labels, 30)


def spread(candidates: int) -> Tensor:
    """Boxes that do not overlap."""
    left = torch.arange(candidates, dtype=torch.float32) * 50
    return torch.stack((left, left, left + 40, left + 30), dim=1)[None]


def of_many_slices() -> list[SelectCase]:
    """Cases in which a slice ends among equal scores, or keeps nothing."""
    random = torch.Generator().manual_seed(3)
    n, m = 2 * SLICE + 100, SLICE + 40
    labels = torch.ones(1, n, dtype=torch.int32)
    one_box = torch.tensor([10.0, 20.0, 110.0, 90.0]).repeat(1, n, 1)
    few_scores = torch.randint(1, 4, (1, n), generator=random) / 8
    two_objects = one_box + 500.0 * (torch.rand(1, n, 1, generator=random) < 0.01)
    next_to_each_other = (torch.arange(n, dtype=torch.int32) + 0x3F000000)[torch.randperm(n, generator=random)]
    return [
        SelectCase("slices of equal scores", spread(n), torch.full((1, n), 0.5), labels, SLICE + 30),
        SelectCase("slices of one box", one_box, torch.rand(1, n, generator=random), labels, 5),
        SelectCase("slices of three scores", spread(n), few_scores, labels, 20),
        SelectCase("a rare object far down", two_objects, torch.rand(1, n, generator=random), labels, 5),
        SelectCase("neighbouring scores", spread(n), next_to_each_other.view(torch.float32)[None], labels, 20),
        # no IoU takes a candidate out, so each must be in one slice, and in one only
        SelectCase("slices of points", one_box[:, :m, [0, 1, 0, 1]], torch.full((1, m), 0.5), labels[:, :m], m + 1),
        SelectCase("exactly a slice", spread(SLICE), torch.rand(1, SLICE, generator=random), labels[:, :SLICE], 20),
    ]


def odd_numbers() -> list[SelectCase]:
    """Scores and coordinates that are infinite, NaN or below the normal numbers."""
    random = torch.Generator().manual_seed(4)
    infinity, nan = float("inf"), float("nan")
    usual = next(each for each in select_cases() if each.name == "crowded, one class")
    scores = usual.scores.clone()
    scores[:, :6] = torch.tensor([infinity, nan, -infinity, 1e-45, -0.0, infinity])
    cases = [replace(usual, name="odd scores", scores=scores)]
    for value in (infinity, -infinity, nan, 3e38, -3e38, 1e-40):
        some = torch.rand(usual.boxes.shape, generator=random) < 0.1
        cases.append(replace(usual, name=f"coordinates {value:g}", boxes=torch.where(some, value, usual.boxes)))
    turned = usual.boxes[..., [2, 1, 0, 3]]
    return [*cases, replace(usual, name="corners in the wrong order", boxes=turned)]


def random_case(seed: int) -> SelectCase:
    """Few or many candidates, apart or crowded, with ties, equal boxes, boxes without area, and odd numbers."""
    random = np.random.default_rng(seed)
    batch, n = int(random.integers(1, 3)), int(random.choice([1, 2, 31, 33, 200, SLICE, SLICE + 1, CHUNK + 7, 1500]))
    span = float(random.choice([3.0, 20.0, 1000.0]))
    corner = random.random((batch, n, 2)) * span
    boxes = np.concatenate((corner, corner + random.random((batch, n, 2)) * span * random.choice([0.05, 0.5, 2])), 2)
    if seed % 3 == 0:
        boxes = boxes.round()  # many equal coordinates, and boxes without area
    if seed % 4 == 0:
        boxes = boxes[:, random.integers(0, max(1, n // 10), n)]  # equal boxes
    scores = random.random((batch, n))
    if seed % 5 == 0:
        scores = (scores * 10).round() / 10  # ties
    scores[random.random((batch, n)) < random.choice([0.0, 0.5, 0.98])] = 0.0
    if seed % 2 == 0:
        boxes[random.random(boxes.shape) < 0.02] = random.choice([np.inf, -np.inf, np.nan, 1e-40])
        scores[random.random(scores.shape) < 0.02] = random.choice([np.inf, np.nan, -1.0])
    labels = random.integers(0, random.choice([1, 2, 80]), (batch, n))
    slots = int(random.choice([1, 10, 100]))
    tensors = torch.from_numpy(boxes).float(), torch.from_numpy(scores).float(), torch.from_numpy(labels).int()
    return SelectCase(f"random, seed {seed}", *tensors, slots)


CASES = [
    *select_cases(),
    with_nan(),
    *(overlapping_in_pairs(n) for n in (CHUNK, CHUNK + 1, MOST_CANDIDATES)),
    overlapping_in_pairs(5000, 2),
    *of_many_slices(),
    *odd_numbers(),
    *(random_case(seed) for seed in range(24)),
]


def arguments(case: SelectCase) -> tuple[Tensor, Tensor, Tensor, float, int]:
    return case.boxes, case.scores, case.labels, THRESHOLD, case.slots


@pytest.fixture(scope="module")
def results() -> list[tuple[Tensor, Tensor]]:
    return interpreted([("select", arguments(case)) for case in CASES])


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda i: str(CASES[i]))
def test_the_kernel_keeps_what_the_reference_keeps(results: list[tuple[Tensor, Tensor]], number: int) -> None:
    indices, count = results[number]
    want_indices, want_count = select_instances(*arguments(CASES[number]))
    assert count.tolist() == want_count.tolist()
    assert indices.tolist() == want_indices.tolist()
    assert (indices.dtype, count.dtype) == (torch.int64, torch.int64)


@pytest.mark.parametrize(("candidates", "block"), [(1, 32), (33, 64), (1024, 1024), (5000, 8192), (8192, 8192)])
def test_room_for_candidates_is_a_power_of_two(candidates: int, block: int) -> None:
    assert block_of(candidates) == block
    constants = constants_of(block)
    assert constants["BLOCK"] % constants["CHUNK"] == constants["CHUNK"] % constants["SLICE"] == 0


def of_spread_boxes(name: str, scores: Tensor) -> SelectCase:
    labels = torch.zeros(scores.shape, dtype=torch.int32)
    return SelectCase(name, spread(scores.shape[1]), scores, labels, 100)


def counted_cases() -> list[SelectCase]:
    """5,000 candidates, 100 slots."""
    n, random = 5000, torch.Generator().manual_seed(5)
    all_scores = torch.rand(1, n, generator=random)
    few_scores = torch.zeros(1, n)
    few_scores[0, torch.randperm(n, generator=random)[:SLICE]] = torch.linspace(0.1, 0.9, SLICE)
    one_object = torch.tensor([10.0, 20.0, 110.0, 90.0]).repeat(1, n, 1)
    return [
        of_spread_boxes("all live", all_scores),
        of_spread_boxes("a slice is live", few_scores),
        of_spread_boxes("none is live", torch.zeros(1, n)),
        replace(of_spread_boxes("one object", all_scores), boxes=one_object),
    ]


@pytest.fixture(scope="module")
def reads() -> dict[str, tuple[float, float, float]]:
    """How often boxes, scores and labels of candidates are read, in all."""
    select = "condinst_deploy.kernels.select:fused_select_instances"
    cases = counted_cases()
    counts = interpreted([("tests.support.interpreted_reads:elements_read", (select, arguments(c))) for c in cases])
    return {case.name: (boxes / 4, scores, labels) for case, (boxes, scores, labels) in zip(cases, counts, strict=True)}


def test_it_reads_the_boxes_of_the_best_candidates_only(reads: dict[str, tuple[float, float, float]]) -> None:
    """One slice is enough, and the search for it reads scores alone."""
    boxes, scores, labels = reads["all live"]
    assert boxes == labels  # a slice, and each instance that is kept
    assert SLICE // 2 + 100 <= boxes <= SLICE + 100
    assert scores % 5000 == 0
    assert scores <= 15 * 5000


def test_dead_candidates_cost_two_looks_at_their_scores(reads: dict[str, tuple[float, float, float]]) -> None:
    """The first counts, the second compacts; rounds go through the live ones, wherever they are."""
    assert reads["a slice is live"] == (SLICE + 100, 2 * 5000, SLICE + 100)
    assert reads["none is live"] == (0, 5000, 0)


def test_no_box_is_read_twice_as_a_candidate(reads: dict[str, tuple[float, float, float]]) -> None:
    """One object has all candidates, so that every slice is gone through."""
    boxes, scores, _ = reads["one object"]
    most_slices = 5000 // (SLICE // 2)
    assert 5000 < boxes <= 5000 + 1 + most_slices  # the instance: when it is kept, and beside each later slice
    assert scores <= 4 * most_slices * 5000  # the width of the last slice is a good guess for the next


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_compiled_kernel_keeps_what_the_reference_keeps(case: SelectCase) -> None:
    from condinst_deploy.kernels.select import fused_select_instances

    boxes, scores, labels, threshold, slots = arguments(case)
    indices, count = fused_select_instances(boxes.cuda(), scores.cuda(), labels.cuda(), threshold, slots)
    want_indices, want_count = select_instances(boxes, scores, labels, threshold, slots)
    assert count.tolist() == want_count.tolist()
    assert indices.tolist() == want_indices.tolist()
