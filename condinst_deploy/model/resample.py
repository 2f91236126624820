"""Aligned bilinear upsampling, CondInst's own resampling rule."""

import torch.nn.functional as F
from torch import Tensor


def aligned_bilinear(x: Tensor, factor: int) -> Tensor:
    """Upsample so that output `i` samples the input at `max((i - factor // 2) / factor, 0)`.

    Both reference implementations use this in the mask branch and on the masks.

    Args:
        x: `(B, C, H, W)`.
        factor: a whole number, at least 1.

    Returns:
        `(B, C, factor * H, factor * W)`.
    """
    if factor == 1:
        return x
    height, width = x.shape[-2:]
    x = F.pad(x, (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, size=(factor * height + 1, factor * width + 1), mode="bilinear", align_corners=True)
    x = F.pad(x, (factor // 2, 0, factor // 2, 0), mode="replicate")
    return x[:, :, : factor * height, : factor * width]
