"""The dynamic mask head: a three-layer network whose weights are predicted for every instance.

This is the PyTorch reference form, with which the portable and the fused forms are compared: relative coordinates
are materialised for every instance and the layers are grouped convolutions, as the paper (section 3.2)
and both published implementations write them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from condinst_deploy.model.config import MASK_STRIDE


def split_params(params: Tensor, mask_channels: int, hidden: int) -> tuple[list[Tensor], list[Tensor]]:
    """Cut the controller's output into weights and biases.

    The order is w1, w2, w3, b1, b2, b3; a weight is stored output channel first, and the first layer's
    input is `(rel_x, rel_y, features...)`.

    Args:
        params: `(N, num_params)`.
        mask_channels: channels of the mask features.
        hidden: hidden channels of the dynamic head.

    Returns:
        Weights `(N, hidden, mask_channels + 2)`, `(N, hidden, hidden)`, `(N, 1, hidden)` and biases
        `(N, hidden)`, `(N, hidden)`, `(N, 1)`.
    """
    inputs, outputs = (mask_channels + 2, hidden, hidden), (hidden, hidden, 1)
    sizes = [i * o for i, o in zip(inputs, outputs, strict=True)] + list(outputs)
    parts = params.split(sizes, dim=1)
    weights = [p.reshape(-1, o, i) for p, o, i in zip(parts[:3], outputs, inputs, strict=True)]
    return weights, list(parts[3:])


def dynamic_mask_head(mask_feats: Tensor, params: Tensor, points: Tensor, soi: Tensor, hidden: int = 8) -> Tensor:
    """Mask logits of every instance, at the mask features' resolution.

    Args:
        mask_feats: `(B, C, h, w)` mask features at stride 8.
        params: `(B, K, num_params)` from the controller.
        points: `(B, K, 2)` `(x, y)` of the instances' locations, in network pixels.
        soi: `(B, K)` size of interest of each instance's level, in network pixels.
        hidden: hidden channels of the dynamic head.

    Returns:
        `(B, K, h, w)` logits.
    """
    batch, channels, height, width = mask_feats.shape
    slots = params.shape[1]
    if slots == 0:
        return mask_feats.new_zeros((batch, 0, height, width))
    device = mask_feats.device
    xs = torch.arange(width, device=device, dtype=torch.float32) * MASK_STRIDE + MASK_STRIDE // 2
    ys = torch.arange(height, device=device, dtype=torch.float32) * MASK_STRIDE + MASK_STRIDE // 2
    rel_x = (points[..., 0, None] - xs) / soi[..., None]  # (B, K, w)
    rel_y = (points[..., 1, None] - ys) / soi[..., None]  # (B, K, h)
    relative = torch.stack(
        (
            rel_x[:, :, None, :].expand(-1, -1, height, -1),
            rel_y[:, :, :, None].expand(-1, -1, -1, width),
        ),
        dim=2,
    )  # (B, K, 2, h, w)
    feats = mask_feats[:, None].expand(-1, slots, -1, -1, -1)
    groups = batch * slots
    # (B, K, C + 2, h, w) -> (1, B*K*(C + 2), h, w): one group of the convolution is one instance
    x = torch.cat((relative.to(feats.dtype), feats), dim=2).reshape(1, groups * (channels + 2), height, width)
    weights, biases = split_params(params.reshape(groups, -1), channels, hidden)
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = F.conv2d(x, weight.reshape(-1, weight.shape[2], 1, 1), bias.reshape(-1), groups=groups)
        if layer < 2:
            x = F.relu(x)
    return x.reshape(batch, slots, height, width)
