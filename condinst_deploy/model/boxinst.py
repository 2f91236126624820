"""BoxInst's losses: masks are learnt from boxes and from the colours of neighbouring pixels.

References:
    Tian and others, "BoxInst: High-Performance Instance Segmentation with Box Annotations" (arXiv 2012.02310).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

NEIGHBOURS = 8
"""Number of a pixel's neighbours: a square of 3x3 without its centre."""

LINEAR_FROM_SRGB = (0.04045, 12.92, 0.055, 2.4)
XYZ_FROM_RGB = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)
"""D65, seen by the observer of 2 degrees."""


class ColourRules(NamedTuple):
    """Which neighbours have the same colour."""

    stride: int = 4  # of the masks that are learnt
    dilation: int = 2
    threshold: float = 0.3  # of `exp(-|difference in LAB| / 2)`
    bottom: int = 10  # rows at the bottom of an image that count as outside: COCO's annotations are wrong there


def lab_from_rgb(images: Tensor) -> Tensor:
    """CIELAB of sRGB: `(B, 3, h, w)` in 0..1 -> the same shape, L in 0..100."""
    knee, slope, offset, power = LINEAR_FROM_SRGB
    linear = torch.where(images > knee, ((images + offset) / (1 + offset)) ** power, images / slope)
    xyz = torch.einsum("ij,bjhw->bihw", linear.new_tensor(XYZ_FROM_RGB), linear)
    ratio = xyz / linear.new_tensor(WHITE).reshape(1, 3, 1, 1)
    x, y, z = torch.where(ratio > 0.008856, ratio.clamp(min=1e-6) ** (1 / 3), 7.787 * ratio + 16 / 116).unbind(1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=1)


def similar_neighbours(images: Tensor, sizes: Tensor, rules: ColourRules) -> Tensor:
    """Return whether a pixel's neighbours have its colour and are inside the image.

    Args:
        images: `(B, 3, H, W)` uint8 RGB, zeros in the padding.
        sizes: `(B, 2)` height and width before padding.
        rules: stride, dilation, threshold and rows at the bottom.

    Returns:
        `(B, 8, H / stride, W / stride)` bool.
    """
    stride, (height, width) = rules.stride, images.shape[2:]
    smaller = F.avg_pool2d(images.to(torch.float32), stride).floor()  # whole numbers, as both references have
    lab = lab_from_rgb(smaller / 255)
    difference = lab[:, :, None] - neighbours(lab, rules.dilation)  # (B, 3, 8, h, w)
    alike = torch.exp(-0.5 * difference.norm(dim=1)) >= rules.threshold
    # mmdetection removes int(10 * height / padded height) rows of the resized image
    bottoms = sizes[:, 0] - (rules.bottom * sizes[:, 0]).div(height, rounding_mode="floor")
    rows, columns = (torch.arange(stride // 2, side, stride, device=images.device) for side in (height, width))
    inside = (rows < bottoms[:, None])[:, :, None] & (columns < sizes[:, 1:])[:, None, :]  # (B, h, w)
    return alike & (neighbours(inside[:, None].to(torch.float32), rules.dilation)[:, 0] > 0)


def neighbours(x: Tensor, dilation: int) -> Tensor:
    """Values of each pixel's eight neighbours, zeros beyond the border: `(n, c, h, w)` -> `(n, c, 8, h, w)`."""
    n, channels, height, width = x.shape
    padded = F.pad(x, (dilation,) * 4)
    steps = [(dy, dx) for dy in (0, 1, 2) for dx in (0, 1, 2) if (dy, dx) != (1, 1)]
    views = [
        padded[:, :, dy * dilation : dy * dilation + height, dx * dilation : dx * dilation + width] for dy, dx in steps
    ]
    return torch.stack(views, dim=2).reshape(n, channels, NEIGHBOURS, height, width)


def pairwise_losses(logits: Tensor, dilation: int) -> Tensor:
    """`-log P(same label)` of each pixel and its neighbours: `(p, h, w)` -> `(p, 8, h, w)`.

    `P = p q + (1 - p)(1 - q)` for the probabilities p and q of two pixels, worked out in logarithms.
    """
    inside, outside = F.logsigmoid(logits)[:, None], F.logsigmoid(-logits)[:, None]  # (p, 1, h, w)
    both_inside = inside[:, :, None] + neighbours(inside, dilation)
    both_outside = outside[:, :, None] + neighbours(outside, dilation)
    return -torch.logaddexp(both_inside, both_outside)[:, 0]


def pairs_of(similar: Tensor, masks: Tensor) -> Tensor:
    """Pairs that each object learns, those that begin inside its box: `(8, h, w)`, `(n, h, w)` -> `(n,)` float64."""
    return (similar.sum(dim=0, dtype=torch.float64)[None] * masks).sum(dim=(1, 2))


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes `(n, 4)` xyxy as masks `(n, h, w)` bool: pixels `int(x1)` to `int(x2 + 1) - 1`, as both references have."""
    masks = torch.zeros((len(boxes), *size), dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True):
        mask[int(y1) : int(y2 + 1), int(x1) : int(x2 + 1)] = True
    return masks


def pairs_in_all(similar: Tensor, masks: Sequence[Tensor], counts: Sequence[Tensor], of_each: bool) -> Tensor:
    """Pairs of all masks of a batch that are learnt, a float64 scalar.

    Args:
        similar: `(B, 8, h, w)`.
        masks: of each image `(n, h, w)`.
        counts: how often each object of an image is learnt `(n,)`.
        of_each: an image with masks has at least one pair (mmdetection).
    """
    sums = []
    for own, mask, count in zip(similar, masks, counts, strict=True):
        pairs = (pairs_of(own, mask) * count).sum()
        sums.append(pairs.clamp(min=1) if of_each and count.sum() > 0 else pairs)
    return torch.stack(sums).sum()
