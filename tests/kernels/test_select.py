"""The selection kernel against the PyTorch reference, over the operation's table of cases: indices are equal."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from condinst_deploy.kernels.select import MOST_CANDIDATES, block_of, chunk_of
from condinst_deploy.model.select import select_instances
from tests.support.interpreter import interpreted
from tests.support.operations import THRESHOLD, SelectCase, select_cases


def with_nan() -> SelectCase:
    """The first score and one in the middle are NaN: they are no candidates, and those behind them are."""
    case = next(each for each in select_cases() if each.name == "rising scores")
    scores = case.scores.clone()
    scores[0, [0, 6]] = float("nan")
    return replace(case, name="NaN among the scores", scores=scores)


def in_chunks(candidates: int, batch: int = 1) -> SelectCase:
    """More candidates than a program takes at once: the best ones and their rivals lie in different chunks."""
    random = torch.Generator().manual_seed(candidates)
    corner = torch.rand(batch, candidates, 2, generator=random) * torch.tensor([1333.0, 800.0])
    boxes = torch.cat((corner, corner + 20 + 200 * torch.rand(batch, candidates, 2, generator=random)), 2)
    scores = torch.rand(batch, candidates, generator=random)
    scores[:, ::3] = 0.0  # below the threshold
    half = candidates // 2
    boxes[:, half : 2 * half] = boxes[:, :half] + 1.0  # a rival of each candidate of the first half
    labels = torch.randint(3, (batch, half + 1), generator=random).repeat(1, 2)[:, :candidates].int()
    return SelectCase(f"{candidates} candidates", boxes, scores, labels, 30)


CASES = [*select_cases(), with_nan(), in_chunks(2048), in_chunks(2049), in_chunks(5000, 2), in_chunks(MOST_CANDIDATES)]


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


@pytest.mark.parametrize(
    ("candidates", "block"), [(1, 32), (33, 64), (2048, 2048), (2049, 4096), (5000, 6144), (8192, 8192)]
)
def test_a_program_goes_through_no_chunk_without_candidates(candidates: int, block: int) -> None:
    assert block_of(candidates) == block
    assert block % chunk_of(block) == 0


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_compiled_kernel_keeps_what_the_reference_keeps(case: SelectCase) -> None:
    from condinst_deploy.kernels.select import fused_select_instances

    boxes, scores, labels, threshold, slots = arguments(case)
    indices, count = fused_select_instances(boxes.cuda(), scores.cuda(), labels.cuda(), threshold, slots)
    want_indices, want_count = select_instances(boxes, scores, labels, threshold, slots)
    assert count.tolist() == want_count.tolist()
    assert indices.tolist() == want_indices.tolist()
