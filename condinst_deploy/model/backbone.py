"""ResNet trunk of torchvision's residual blocks, C3..C5."""

from typing import Self

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, conv1x1

from condinst_deploy.model.config import BLOCKS, CondInstConfig


class Backbone(nn.Module):
    """ResNet-18/34/50/101; the stride of a bottleneck sits on its 3x3 convolution, or on its first (MSRA's).

    Parameter names are torchvision's own (`conv1`, `bn1`, `layer1.0.conv1`, ...). torchvision's
    `ResNet` fixes the stem at 64 channels; here `base_width` sets it, so that a slim network for tests
    and demonstrations has the structure of the large one.
    """

    def __init__(self, config: CondInstConfig) -> None:
        super().__init__()
        block = Bottleneck if config.depth >= 50 else BasicBlock
        width = config.base_width
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.frozen_stages = 0  # 1: the stem; 2: layer1 too; ...
        self.norm_eval = False  # keep the running statistics of all norms in training mode
        channels = width
        for i, blocks in enumerate(BLOCKS[config.depth]):
            planes, stride = width * 2**i, 1 if i == 0 else 2
            self.add_module(f"layer{i + 1}", _layer(block, channels, planes, blocks, stride))
            channels = planes * block.expansion
        if config.stride_in_1x1:
            self._move_strides()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(B, 3, H, W)` -> C3, C4, C5 at strides 8, 16 and 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        c2 = self.get_submodule("layer1")(x)
        c3 = self.get_submodule("layer2")(c2)
        c4 = self.get_submodule("layer3")(c3)
        c5 = self.get_submodule("layer4")(c4)
        return c3, c4, c5

    def freeze(self, stages: int, norm_eval: bool, norm_affine: bool = True) -> None:
        """Freeze the layers that training does not change.

        Args:
            stages: 0 nothing, 1 the stem, 2 the stem and layer1, and so on. Their parameters get no gradients
                and their norms stay in evaluation mode.
            norm_eval: all norms normalise by their running statistics, which stay as they are; those of
                stages that are not frozen still learn their scale and shift.
            norm_affine: whether those do; detectron2's FrozenBatchNorm, AdelaiDet's norm, does not.
        """
        self.frozen_stages, self.norm_eval = stages, norm_eval
        for module in [*self._frozen(), *([] if norm_affine else self._norms())]:
            module.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set train or eval mode; frozen modules stay in eval mode."""
        super().train(mode)
        for module in [*self._frozen(), *(self._norms() if self.norm_eval else [])]:
            module.eval()
        return self

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]

    def _move_strides(self) -> None:
        """From the 3x3 to the first 1x1 convolution of every bottleneck, as the MSRA weights were trained."""
        for module in self.modules():
            if isinstance(module, Bottleneck):
                module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride

    def _frozen(self) -> list[nn.Module]:
        stem = [self.conv1, self.bn1] if self.frozen_stages else []
        return stem + [self.get_submodule(f"layer{i}") for i in range(1, self.frozen_stages)]


def _layer(
    block: type[BasicBlock] | type[Bottleneck], channels: int, planes: int, blocks: int, stride: int
) -> nn.Sequential:
    out = planes * block.expansion
    downsample = None
    if stride != 1 or channels != out:
        downsample = nn.Sequential(conv1x1(channels, out, stride), nn.BatchNorm2d(out))
    first = block(channels, planes, stride, downsample)
    return nn.Sequential(first, *(block(out, planes) for _ in range(blocks - 1)))
