"""Feature pyramid P3..P7 on top of C3..C5."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condinst_deploy.model.config import CondInstConfig


class FPN(nn.Module):
    """Lateral 1x1 and output 3x3 convolutions, nearest top-down path, P6 and P7 by strided convolutions."""

    def __init__(self, config: CondInstConfig) -> None:
        super().__init__()
        channels = config.fpn_channels
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in config.backbone_channels)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
        self.p6 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, features: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
        """C3, C4, C5 -> `[P3, P4, P5, P6, P7]`, each `(B, fpn_channels, H/stride, W/stride)`."""
        c3, c4, c5 = (conv(x) for conv, x in zip(self.lateral, features, strict=True))
        c4 = c4 + F.interpolate(c5, size=c4.shape[-2:], mode="nearest")
        c3 = c3 + F.interpolate(c4, size=c3.shape[-2:], mode="nearest")
        p3, p4, p5 = (conv(x) for conv, x in zip(self.output, (c3, c4, c5), strict=True))
        p6 = self._halved(self.p6, p5)
        p7 = self._halved(self.p7, F.relu(p6))
        return [p3, p4, p5, p6, p7]

    def _halved(self, conv: nn.Conv2d, x: Tensor) -> Tensor:
        """The strided convolution; where it is trained in half precision, a single column gets one of zeros beside it.

        The output is the same: the column of zeros is in the place of the padding. In bfloat16 on a CPU, PyTorch's
        gradient of a 3x3 kernel at stride 2 over one column reads memory that was never written (PyTorch 2.14, oneDNN).
        """
        narrow = self.training and torch.is_autocast_enabled(x.device.type) and x.shape[-1] == 1
        return conv(F.pad(x, (0, 1)) if narrow else x)  # type: ignore[no-any-return]
