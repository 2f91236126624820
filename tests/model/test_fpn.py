"""The feature pyramid where a level is one column wide."""

import pytest
import torch
from torch import Tensor

from condinst_deploy.model.fpn import FPN
from tests.support.models import TINY

pytestmark = pytest.mark.usefixtures("one_thread")


def features(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    c3, c4, c5 = (
        torch.randn(2, c, height // s, width // s) for c, s in zip(TINY.backbone_channels, (1, 2, 4), strict=True)
    )
    return c3, c4, c5


def fill_free_memory_with_nan() -> None:
    """What is freed here is what the next operations are given, as it is."""
    kept = [torch.full((1 << size,), float("nan"), dtype=torch.bfloat16) for size in range(10, 21, 2)]
    kept += [torch.full((TINY.fpn_channels**2 * 9,), float("nan")), torch.full((1 << 16,), float("nan"))]
    del kept


@pytest.mark.parametrize(("height", "width"), [(16, 4), (4, 4), (16, 8)])
def test_gradients_in_bfloat16_are_finite_where_a_level_is_one_column(height: int, width: int) -> None:
    fpn = FPN(TINY).train()
    for _ in range(60):
        fill_free_memory_with_nan()
        with torch.autocast("cpu", torch.bfloat16):
            levels = fpn(features(height, width))
        sum(level.float().square().sum() for level in levels).backward()
        assert [name for name, p in fpn.named_parameters() if not bool(torch.isfinite(p.grad).all())] == []  # type: ignore[arg-type]
        fpn.zero_grad()


@pytest.mark.parametrize(("height", "width"), [(16, 4), (4, 8)])
def test_the_levels_are_those_of_the_plain_convolutions(height: int, width: int) -> None:
    fpn, inputs = FPN(TINY), features(height, width)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        trained, plain = fpn.train()(inputs), fpn.eval()(inputs)
    for one, other in zip(trained, plain, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)
