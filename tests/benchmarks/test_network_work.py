"""Operations of R-50, counted again from the sizes of its convolutions."""

import pytest
import torch
from torch import nn

from benchmarks.network_work import HEIGHT, SLOTS, WIDTH, gflop_of_r50
from condinst_deploy.model.condinst import CondInst


def operations(conv: nn.Conv2d, out: torch.Tensor) -> float:
    """GFLOP of one call: a product and a sum for each weight and output pixel."""
    kernel = conv.kernel_size[0] * conv.kernel_size[1]
    return 2 * conv.in_channels // conv.groups * kernel * out.numel() / 1e9


def test_parts_are_those_of_the_convolutions() -> None:
    with torch.device("meta"):
        model = CondInst().eval()
        found: dict[str, float] = {}

        def counts(part: str) -> None:
            for module in getattr(model, part).modules():
                if isinstance(module, nn.Conv2d):
                    module.register_forward_hook(
                        lambda conv, _, out: found.update({part: found.get(part, 0) + operations(conv, out)})
                    )

        for part in ("backbone", "fpn", "head", "mask_branch"):
            counts(part)
        with torch.no_grad():
            model.features(torch.zeros(1, 3, HEIGHT, WIDTH))
    parts = gflop_of_r50()
    assert parts["backbone"] == pytest.approx(found["backbone"])
    assert parts["FPN"] == pytest.approx(found["fpn"])
    assert parts["mask branch"] == pytest.approx(found["mask_branch"])
    points = sum(-(-HEIGHT // stride) * -(-WIDTH // stride) for stride in (8, 16, 32, 64, 128))
    at_every_point = parts["controller"] / SLOTS * points
    assert at_every_point == pytest.approx(17.44, abs=0.01)  # the number in the function's docstring
    assert parts["head"] + at_every_point == pytest.approx(found["head"])


def test_mask_head_counts_the_weights_of_its_three_layers() -> None:
    weights = 10 * 8 + 8 * 8 + 8  # 8 features and 2 coordinates -> 8 -> 8 -> 1
    assert gflop_of_r50()["dynamic mask head"] == pytest.approx(2 * SLOTS * weights * 100 * 168 / 1e9)
