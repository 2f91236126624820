"""The mask head's kernels against the PyTorch reference, over the operation's table of cases."""

from typing import Any

import pytest
import torch
from torch import Tensor

from condinst_deploy.model.mask_head import dynamic_mask_head
from tests.support.interpreter import interpreted
from tests.support.operations import MaskHeadCase, mask_head_cases

CASES = [(8, case) for case in mask_head_cases()] + [(6, case) for case in mask_head_cases(4, 6)[:4]]
# mmdetection's BoxInst; at this width float16 cannot hold most of the large values
CASES += [(16, case) for case in mask_head_cases(16, 16) if case.name != "large values"]
CASES += [(8, case) for case in mask_head_cases(16, 8)[:4]]  # AdelaiDet's BoxInst
CASES += [(12, case) for case in mask_head_cases(8, 12)[:4]]  # a width that has to be padded to 16
CASES += [(4, mask_head_cases(5, 4)[0]), (1, mask_head_cases(1, 1)[1]), (15, mask_head_cases(3, 15)[1])]
CASES += [(24, mask_head_cases(8, 24)[1])]  # not covered: the reference
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
"""Relative to the output's scale; a rounding to bfloat16 is eight times one to float16."""


def arguments(case: MaskHeadCase, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor, Tensor, Tensor]:
    feats, params = case.mask_feats.to(device, dtype), case.params.to(device, dtype)
    return feats, params, case.points.to(device), case.soi.to(device)


def check(logits: Tensor, case: MaskHeadCase, dtype: torch.dtype, hidden: int) -> None:
    """Against the reference in float32, on the same rounded features and parameters."""
    feats, params, points, soi = arguments(case, dtype)
    want = dynamic_mask_head(feats.float(), params.float(), points, soi, hidden)
    assert logits.shape == want.shape
    assert logits.dtype == dtype
    fits = want.abs() < torch.finfo(dtype).max  # what float16 cannot hold is infinite
    assert fits.float().mean() > 0.5
    scale = float(want.abs().max())
    worst = float((logits.float() - want)[fits].abs().max())
    limit = max(scale, 1.0) if dtype == torch.float32 else scale
    assert worst <= TOLERANCES[dtype] * limit


@pytest.fixture(scope="module")
def results() -> dict[Any, Tensor]:
    keys = [(dtype, i) for dtype in TOLERANCES for i in range(len(CASES))]
    calls = [("mask_head", (*arguments(CASES[i][1], dtype), CASES[i][0])) for dtype, i in keys]
    return dict(zip(keys, interpreted(calls), strict=True))


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda i: f"{i}, {CASES[i][1]}, {CASES[i][0]} hidden")
def test_the_kernel_gives_the_reference_logits(results: dict[Any, Tensor], dtype: torch.dtype, number: int) -> None:
    hidden, case = CASES[number]
    check(results[dtype, number], case, dtype, hidden)


def test_nan_in_a_feature_is_in_the_logits_of_its_pixel() -> None:
    """The check for finite outputs must see it, whatever ReLUs are behind it."""
    calls = []
    for dtype in TOLERANCES:
        feats, *others = arguments(CASES[0][1], dtype)
        feats = feats.clone()
        feats[0, 3, 1, 2] = float("nan")
        calls.append(("mask_head", (feats, *others, 8)))
    for logits in interpreted(calls):
        broken = torch.isnan(logits[0])
        assert broken[:, 1, 2].all()
        assert int(broken.sum()) == len(broken)


def test_a_broken_parameter_is_in_the_logits_of_its_instance() -> None:
    """Wherever the reference is not finite, the kernels are not."""
    case = next(case for _, case in CASES if case.name == "odd width")
    broken = [(0, float("nan")), (80, float("inf")), (152, float("nan")), (168, float("-inf"))]  # a layer each, a bias
    calls, wanted = [], []
    for dtype in TOLERANCES:
        for place, value in broken:
            feats, params, points, soi = arguments(case, dtype)
            params = params.clone()
            params[0, 3, place] = value
            calls.append(("mask_head", (feats, params, points, soi, 8)))
            wanted.append(torch.isfinite(dynamic_mask_head(feats.float(), params.float(), points, soi, 8)))
    for logits, finite in zip(interpreted(calls), wanted, strict=True):
        assert not finite.all()
        assert not torch.isfinite(logits[~finite]).any()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("hidden", "case"), CASES, ids=str)
def test_the_compiled_kernel_gives_the_reference_logits(hidden: int, case: MaskHeadCase, dtype: torch.dtype) -> None:
    from condinst_deploy.kernels.mask_head import fused_mask_head

    logits = fused_mask_head(*arguments(case, dtype, "cuda"), hidden)
    check(logits.cpu(), case, dtype, hidden)
