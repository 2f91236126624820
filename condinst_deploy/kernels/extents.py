"""Where mask logits are positive: the first of the launches that make masks; `kernels/runs.py` has the others.

The kernel finds the rectangle of every slot's positive logits, and whether all of its logits are finite. Only there
can the mask be set. It is a separate launch, because the rectangles decide how many programs and how much memory the
other launches need, and because the host decides which slots are kept.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

EXTENT_BLOCK = 2048
"""Logits that a program takes at once."""

NONE = tl.constexpr(1 << 30)  # first row or column where there is none


@triton.jit(do_not_specialize=["height", "width"])
def mask_extents_kernel(logits, height, width, extents, BLOCK: tl.constexpr):
    """Extent of one slot; program (image * K + slot)."""
    plane = tl.program_id(0).to(tl.int64)
    pixels = height * width
    own = logits + plane * pixels
    top = tl.full((BLOCK,), NONE, tl.int32)
    left = tl.full((BLOCK,), NONE, tl.int32)
    bottom = tl.full((BLOCK,), -1, tl.int32)
    right = tl.full((BLOCK,), -1, tl.int32)
    broken = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, pixels, BLOCK):
        pixel = start + tl.arange(0, BLOCK)
        value = tl.load(own + pixel, pixel < pixels, 0.0).to(tl.float32)
        y = pixel // width
        x = pixel - y * width
        set_ = value > 0.0
        top = tl.minimum(top, tl.where(set_, y, NONE))
        left = tl.minimum(left, tl.where(set_, x, NONE))
        bottom = tl.maximum(bottom, tl.where(set_, y, -1))
        right = tl.maximum(right, tl.where(set_, x, -1))
        # a comparison with NaN is false
        broken = tl.where(tl.abs(value) < float("inf"), broken, 1)
    result = extents + plane * 5
    tl.store(result, tl.min(top, axis=0))
    tl.store(result + 1, tl.max(bottom, axis=0))
    tl.store(result + 2, tl.min(left, axis=0))
    tl.store(result + 3, tl.max(right, axis=0))
    tl.store(result + 4, tl.max(broken, axis=0))


def mask_extents(logits: Tensor) -> Tensor:
    """Where logits are positive, in one launch.

    Args:
        logits: `(B, K, h, w)` float32, float16 or bfloat16.

    Returns:
        `(B, K, 5)` int32: first and last row, first and last column (the last ones are -1 where no logit is
        positive), and 1 where a logit is NaN or infinite.
    """
    batch, slots, height, width = logits.shape
    extents = logits.new_empty((batch, slots, 5), dtype=torch.int32)
    if extents.numel() > 0:
        with torch.cuda.device_of(logits):  # Triton launches on the current device
            mask_extents_kernel[(batch * slots,)](
                logits.contiguous(), height, width, extents, BLOCK=EXTENT_BLOCK, num_warps=4
            )
    return extents
