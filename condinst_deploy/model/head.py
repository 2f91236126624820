"""The anchor-free head: two towers shared over the levels, and what they predict at every point."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condinst_deploy.model.config import NORM_GROUPS, STRIDES, CondInstConfig


class LevelOutputs(NamedTuple):
    """Raw predictions of one pyramid level."""

    cls_logits: Tensor  # (B, C, h, w)
    distances: Tensor  # (B, 4, h, w) left, top, right, bottom, >= 0, in strides
    centerness: Tensor  # (B, 1, h, w) logits
    params: Tensor  # (B, num_params, h, w) weights and biases of the dynamic mask head; or what they are made of


class ConvNorm(nn.Module):
    """Convolution 3x3, a norm, ReLU."""

    def __init__(self, in_channels: int, norm: nn.Module, channels: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=bias)
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """`(B, in_channels, h, w)` -> `(B, channels, h, w)`."""
        return F.relu(self.norm(self.conv(x)))


class Head(nn.Module):
    """Class scores from the class tower; box, centerness and controller from the box tower."""

    def __init__(self, config: CondInstConfig) -> None:
        super().__init__()
        channels = config.fpn_channels
        self.cls_tower = _tower(channels, config.tower_convs)
        self.box_tower = _tower(channels, config.tower_convs)
        self.cls_logits = nn.Conv2d(channels, config.num_classes, 3, padding=1)
        self.box_pred = nn.Conv2d(channels, 4, 3, padding=1)
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1)
        self.controller = nn.Conv2d(channels, config.num_params, 3, padding=1)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in STRIDES)

    def forward(self, pyramid: list[Tensor]) -> list[LevelOutputs]:
        """P3..P7 -> one `LevelOutputs` a level."""
        return [level._replace(params=self.controller(level.params)) for level in self.before_controller(pyramid)]

    def before_controller(self, pyramid: list[Tensor]) -> list[LevelOutputs]:
        """The same, but `params` are the controller's input `(B, fpn_channels, h, w)`.

        Used when parameters are needed at a few points only.
        """
        return [self._level(x, scale) for x, scale in zip(pyramid, self.scales, strict=True)]

    def _level(self, x: Tensor, scale: Tensor) -> LevelOutputs:
        cls_features, box_features = self.cls_tower(x), self.box_tower(x)
        return LevelOutputs(
            cls_logits=self.cls_logits(cls_features),
            distances=F.relu(self.box_pred(box_features) * scale),
            centerness=self.centerness(box_features),
            params=box_features,
        )


def _tower(channels: int, convs: int) -> nn.Sequential:
    return nn.Sequential(
        *(ConvNorm(channels, nn.GroupNorm(NORM_GROUPS, channels), channels, bias=True) for _ in range(convs))
    )


def level_points(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    """Centres of a level's cells, row by row.

    Returns:
        `(height * width, 2)` float32 `(x, y)` in network pixels: `(i + 0.5) * stride`.
    """
    xs = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
    ys = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
    return torch.stack((xs.repeat(height), ys.repeat_interleave(width)), dim=1)
