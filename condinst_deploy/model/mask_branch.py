"""The mask branch: eight feature maps at stride 8 that all instances share."""

from torch import Tensor, nn

from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.model.head import ConvNorm
from condinst_deploy.model.resample import aligned_bilinear


class MaskBranch(nn.Module):
    """P3, P4 and P5 refined, brought to stride 8 and summed; a tower; a 1x1 to the mask features.

    A model trained with the semantic loss (AdelaiDet's `_sem`) has a classifier of P3's pixels, too.
    """

    def __init__(self, config: CondInstConfig) -> None:
        super().__init__()
        channels = config.mask_branch_channels
        self.refine = nn.ModuleList(_conv_bn(config.fpn_channels, channels) for _ in range(3))
        self.tower = nn.Sequential(*(_conv_bn(channels, channels) for _ in range(config.mask_branch_convs)))
        self.features = nn.Conv2d(channels, config.mask_channels, 1)
        self.semantic: nn.Sequential | None = None
        if config.semantic_head:
            self.semantic = nn.Sequential(
                _conv_bn(config.fpn_channels, channels),
                _conv_bn(channels, channels),
                nn.Conv2d(channels, config.num_classes, 1),
            )

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        """P3..P7 -> mask features `(B, mask_channels, H/8, W/8)`."""
        p3, p4, p5 = (refine(x) for refine, x in zip(self.refine, pyramid[:3], strict=True))
        x = p3 + aligned_bilinear(p4, 2) + aligned_bilinear(p5, 4)
        features: Tensor = self.features(self.tower(x))
        return features

    def semantic_logits(self, pyramid: list[Tensor]) -> Tensor | None:
        """P3..P7 -> class logits `(B, C, H/8, W/8)` for the semantic loss; None without that head."""
        return None if self.semantic is None else self.semantic(pyramid[0])


def _conv_bn(in_channels: int, channels: int) -> ConvNorm:
    return ConvNorm(in_channels, nn.BatchNorm2d(channels), channels, bias=False)
