"""Exact resizing as one kernel: the bytes of Pillow's antialiased bilinear filter, written into a batch's input.

A program has a tile of output pixels. It goes along the axis of the second pass. For each step it makes the pixels of
the first pass as Pillow does (`imaging/resize_tables.py`), rounds them to bytes, and adds them up. All of it is integer
arithmetic, so the compiler cannot change the result. Neighbouring programs read the image through the cache; nothing
but the result is written. The padding becomes zero in the same launch.

The axis of the second pass is called outer, that of the first pass inner. Strides say which of them is the height.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from condinst_deploy.imaging.resize_tables import FRACTIONAL_BITS
from condinst_deploy.kernels.resize_launch import TILE_INNER, TILE_OUTER, WARPS, ResizeNumbers

BITS = tl.constexpr(FRACTIONAL_BITS)
HALF = tl.constexpr(1 << (FRACTIONAL_BITS - 1))


@triton.jit
def as_byte(total):
    """Shift and clip a sum as Pillow does; no coefficient is negative."""
    return tl.minimum(total >> BITS, 255)


@triton.jit(do_not_specialize=ResizeNumbers._fields)
def resize_kernel(
    image, outer_table, inner_table,
    image_outer, image_inner, resized_outer, resized_inner, padded_outer, padded_inner, target_outer, target_inner,
    target,
    OUTER: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    """A tile of three planes; program (tile along the inner axis, tile along the outer axis).

    `image_*` are the strides of the image's axes in bytes, `target_*` those of a plane of the target.
    """
    outer = tl.program_id(1) * OUTER + tl.arange(0, OUTER)
    inner = tl.program_id(0) * INNER + tl.arange(0, INNER)
    real_outer, real_inner = outer < resized_outer, inner < resized_inner
    first_outer = tl.load(outer_table + outer, real_outer, 0)
    first_inner = tl.load(inner_table + inner, real_inner, 0)
    count_outer = tl.load(outer_table + resized_outer + outer, real_outer, 0)
    count_inner = tl.load(inner_table + resized_inner + inner, real_inner, 0)
    red = tl.full((OUTER, INNER), HALF, tl.int32)
    green = tl.full((OUTER, INNER), HALF, tl.int32)
    blue = tl.full((OUTER, INNER), HALF, tl.int32)
    taps_inner = tl.max(count_inner, axis=0)
    for i in range(0, tl.max(count_outer, axis=0)):
        line = image + (first_outer + i).to(tl.int64) * image_outer  # (OUTER,)
        used_outer = i < count_outer
        first_red = tl.full((OUTER, INNER), HALF, tl.int32)
        first_green = tl.full((OUTER, INNER), HALF, tl.int32)
        first_blue = tl.full((OUTER, INNER), HALF, tl.int32)
        for j in range(0, taps_inner):
            weight = tl.load(inner_table + (2 + j) * resized_inner + inner, real_inner, 0)[None, :]
            pixel = line[:, None] + ((first_inner + j).to(tl.int64) * image_inner)[None, :]
            used = used_outer[:, None] & (j < count_inner)[None, :]
            first_red += tl.load(pixel, used, 0).to(tl.int32) * weight
            first_green += tl.load(pixel + 1, used, 0).to(tl.int32) * weight
            first_blue += tl.load(pixel + 2, used, 0).to(tl.int32) * weight
        weight_outer = tl.load(outer_table + (2 + i) * resized_outer + outer, real_outer, 0)[:, None]
        red += as_byte(first_red) * weight_outer
        green += as_byte(first_green) * weight_outer
        blue += as_byte(first_blue) * weight_outer
    # HALF alone is the byte 0: the padding
    plane = padded_outer.to(tl.int64) * padded_inner
    place = target + (outer.to(tl.int64) * target_outer)[:, None] + (inner.to(tl.int64) * target_inner)[None, :]
    inside = (outer < padded_outer)[:, None] & (inner < padded_inner)[None, :]
    tl.store(place, as_byte(red).to(tl.uint8), inside)
    tl.store(place + plane, as_byte(green).to(tl.uint8), inside)
    tl.store(place + 2 * plane, as_byte(blue).to(tl.uint8), inside)


def resize_into(target: Tensor, image: Tensor, rows: Tensor, columns: Tensor, *, columns_first: bool) -> None:
    """Resize one image on its device, in one launch on the current stream.

    Args:
        target: `(3, padded height, padded width)` uint8, contiguous; all of it is written.
        image: `(H, W, 3)` uint8, contiguous.
        rows: `ResizeTables.rows` for this image, on its device, contiguous. The resized height fits the target.
        columns: `ResizeTables.columns`.
        columns_first: as in `ResizeTables`.
    """
    resized, padded = (rows.shape[1], columns.shape[1]), (target.shape[1], target.shape[2])
    numbers = ResizeNumbers.of(image.shape[1], resized, padded, columns_first=columns_first)
    outer, inner = (columns, rows) if columns_first else (rows, columns)
    with torch.cuda.device_of(target):  # Triton launches on the current device
        resize_kernel[numbers.grid](
            image, outer, inner, *numbers, target, OUTER=TILE_OUTER, INNER=TILE_INNER, num_warps=WARPS
        )
