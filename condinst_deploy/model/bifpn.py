"""Bidirectional feature pyramid P3..P7 on top of C3..C5 (EfficientDet, arXiv 1911.09070), as AdelaiDet has it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condinst_deploy.model.config import CondInstConfig

LEVELS = 5

NODES = (
    (3, (3, 4)),
    (2, (2, 5)),
    (1, (1, 6)),
    (0, (0, 7)),
    (1, (1, 7, 8)),
    (2, (2, 6, 9)),
    (3, (3, 5, 10)),
    (4, (4, 11)),
)
"""Level of each node of a repeat, and its inputs: 0..4 are the repeat's levels, 5.. its nodes so far."""

FUSION_EPSILON = 1e-4


class BiFPN(nn.Module):
    """P6 and P7 by max-pooling of a reduced C5; then repeats of a top-down and a bottom-up path."""

    def __init__(self, config: CondInstConfig) -> None:
        super().__init__()
        channels, own = config.fpn_channels, config.backbone_channels
        self.reduction = nn.Sequential(nn.Conv2d(own[-1], channels, 1, bias=False), nn.BatchNorm2d(channels))
        self.lateral = nn.ModuleList(nn.Sequential(nn.Conv2d(c, channels, 1), nn.BatchNorm2d(channels)) for c in own)
        self.repeats = nn.ModuleList(
            nn.ModuleList(FusionNode(len(inputs), channels) for _, inputs in NODES) for _ in range(config.bifpn_repeats)
        )

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        """C3, C4, C5 -> `[P3, P4, P5, P6, P7]`, each `(B, fpn_channels, H/stride, W/stride)`, rounded up."""
        c6 = _halved(self.reduction(features[-1]))
        levels = [*(lateral(x) for lateral, x in zip(self.lateral, features, strict=True)), c6, _halved(c6)]
        for nodes in self.repeats:
            levels = _repeat(nodes, levels)  # type: ignore[arg-type]
        return levels


class FusionNode(nn.Module):
    """Weighted sum of maps of one size, swish, convolution 3x3, a norm."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(inputs))
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps `(B, C, h, w)`, one a weight -> `(B, C, h, w)`."""
        weights = F.relu(self.weights)
        weights = weights / (weights.sum() + FUSION_EPSILON)
        fused = torch.stack([weight * x for weight, x in zip(weights, maps, strict=True)]).sum(dim=0)
        result: Tensor = self.norm(self.conv(F.silu(fused)))
        return result


def _repeat(nodes: nn.ModuleList, levels: list[Tensor]) -> list[Tensor]:
    """One top-down and one bottom-up path; a level's last node is its output."""
    maps, level_of = list(levels), list(range(LEVELS))
    for node, (level, inputs) in zip(nodes, NODES, strict=True):
        maps.append(node([_brought(maps[i], level - level_of[i], levels[level]) for i in inputs]))
        level_of.append(level)
    outputs = dict(zip(level_of, maps, strict=True))
    return [outputs[level] for level in range(LEVELS)]


def _brought(x: Tensor, levels_up: int, like: Tensor) -> Tensor:
    """A map of the level itself, of the one above or of the one below, at the size of `like`."""
    if levels_up > 0:
        return _halved(x)
    # not twice the size: an odd side was rounded up when it was halved
    return F.interpolate(x, size=like.shape[-2:], mode="nearest") if levels_up < 0 else x


def _halved(x: Tensor) -> Tensor:
    return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
