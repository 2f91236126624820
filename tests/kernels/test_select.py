"""The selection kernel against the PyTorch reference, over the operation's table of cases: indices are equal."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from condinst_deploy.model.select import select_instances
from tests.support.interpreter import interpreted
from tests.support.operations import THRESHOLD, SelectCase, select_cases


def with_nan() -> SelectCase:
    """The first score and one in the middle are NaN: they are no candidates, and those behind them are."""
    case = next(each for each in select_cases() if each.name == "rising scores")
    scores = case.scores.clone()
    scores[0, [0, 6]] = float("nan")
    return replace(case, name="NaN among the scores", scores=scores)


CASES = [*select_cases(), with_nan()]


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


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_compiled_kernel_keeps_what_the_reference_keeps(case: SelectCase) -> None:
    from condinst_deploy.kernels.select import fused_select_instances

    boxes, scores, labels, threshold, slots = arguments(case)
    indices, count = fused_select_instances(boxes.cuda(), scores.cuda(), labels.cuda(), threshold, slots)
    want_indices, want_count = select_instances(boxes, scores, labels, threshold, slots)
    assert count.tolist() == want_count.tolist()
    assert indices.tolist() == want_indices.tolist()
