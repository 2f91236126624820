"""Mask logits to bit-packed masks at original size; `condinst_deploy.runtime.postprocess` does the same on a host.

Two launches. The first finds for every slot the rectangle of its positive logits, and whether all of them are
finite; only there can the mask be set. The second computes the pixels of these rectangles' reach, all instances of
all images at once, and writes eight of them a byte. They cannot be one: the rectangles decide how many programs
the second has and how large its result is, and the host decides which slots are wanted at all.

Each axis goes through aligned bilinear x4, a crop, and bilinear to the original. The middle step's pixels lie at
quarters between two probabilities, so both pixels that the last step mixes lie between the same two, and linear
between linear is linear: pixel `o` of the original samples the probabilities at

    ((o + 0.5) * resized / original - 0.5 - 2) / 4  =  ((2 o + 1) * resized - 5 * original) / (8 * original)

limited to 0 and to the resized image's last pixel. That is a quotient of whole numbers: place and share are exact
without tables or float64. The two probabilities come from two logits (aligned bilinear x2), so a pixel reads 2 x 2
logits and takes 4 sigmoids, in float32, and nothing between logits and bits goes to memory.
"""

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl
from torch import Tensor

IntArray = npt.NDArray[np.int64]

# columns of a crop; the first nine come from the caller
PLANE = tl.constexpr(0)  # image * K + slot
TOP = tl.constexpr(1)  # first pixel in the original
LEFT = tl.constexpr(2)
HEIGHT = tl.constexpr(3)  # pixels
WIDTH = tl.constexpr(4)
RESIZED_HEIGHT = tl.constexpr(5)
RESIZED_WIDTH = tl.constexpr(6)
ORIGINAL_HEIGHT = tl.constexpr(7)
ORIGINAL_WIDTH = tl.constexpr(8)
FIRST_BYTE = tl.constexpr(9)  # in the result
FIRST_TILE = tl.constexpr(10)  # program
FIELDS = tl.constexpr(11)

EXTENT_BLOCK = 2048
"""Logits that a program of the first kernel takes at once."""

TILE_ROWS, TILE_BYTES = 32, 16
"""Rows, and bytes of each, of a program of the second kernel."""

LARGEST_PRODUCT = 1 << 30
"""Original times resized side must stay below it: twice that fits 32 bits."""

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


@triton.jit
def samples(pixel, resized, original, cells):
    """Two logits that each pixel of an axis needs, the second's share in two probabilities, and theirs in the pixel."""
    scale = 8 * original
    at = tl.minimum((2 * pixel + 1) * resized - 5 * original, 2 * original * (resized - 3))
    at = tl.maximum(at, 0)
    first = at // scale  # probability; the other is the next
    share = (at - first * scale).to(tl.float32) / scale.to(tl.float32)
    # probability j lies at max(j - 1, 0) halves of a logit
    near = tl.maximum(first - 1, 0)
    far = tl.minimum(first, 2 * cells - 2)
    near_share = 0.5 * (near % 2).to(tl.float32)
    far_share = 1.0 - 0.5 * (far % 2).to(tl.float32)
    return near // 2, (far + 1) // 2, near_share, far_share, share


@triton.jit
def between(a, b, share):
    """Linear; exactly `a` where both are equal, and exactly `b` at its own place, however much larger `a` is."""
    return tl.where(share == 1.0, b, a + (b - a) * share)


@triton.jit(do_not_specialize=["number", "height", "width"])
def packed_masks_kernel(
    logits, crops, number, height, width, bits,
    ROWS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """A tile of one crop; program (tile)."""
    tile = tl.program_id(0)
    # the last crop that begins at this tile or before
    low = tile * 0
    high = low + number
    while high - low > 1:
        middle = (low + high) // 2
        reached = tl.load(crops + middle * FIELDS + FIRST_TILE) <= tile
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle)
    crop = crops + low * FIELDS
    crop_height = tl.load(crop + HEIGHT).to(tl.int32)
    crop_width = tl.load(crop + WIDTH).to(tl.int32)
    row_bytes = (crop_width + 7) // 8
    number_in_crop = tile - tl.load(crop + FIRST_TILE).to(tl.int32)
    across = (row_bytes + BYTES - 1) // BYTES
    row = (number_in_crop // across) * ROWS + tl.arange(0, ROWS)
    byte = (number_in_crop % across) * BYTES + tl.arange(0, BYTES)

    resized_width = tl.load(crop + RESIZED_WIDTH).to(tl.int32)
    original_width = tl.load(crop + ORIGINAL_WIDTH).to(tl.int32)
    left = tl.load(crop + LEFT).to(tl.int32)
    y = tl.load(crop + TOP).to(tl.int32) + row
    resized_height = tl.load(crop + RESIZED_HEIGHT).to(tl.int32)
    original_height = tl.load(crop + ORIGINAL_HEIGHT).to(tl.int32)
    upper, lower, upper_share, lower_share, share_y = samples(y, resized_height, original_height, height)
    upper_share, lower_share, share_y = upper_share[:, None], lower_share[:, None], share_y[:, None]

    # places are limited to the logits, so pixels beyond the crop read what is there, and are not set
    own = logits + tl.load(crop + PLANE) * height * width
    upper_row = own + (upper * width)[:, None]
    lower_row = own + (lower * width)[:, None]
    packed = tl.zeros((ROWS, BYTES), tl.int32)
    for bit in range(8):
        column = 8 * byte + bit
        near, far, near_share, far_share, share_x = samples(left + column, resized_width, original_width, width)
        near, far, share_x = near[None, :], far[None, :], share_x[None, :]
        near_share, far_share = near_share[None, :], far_share[None, :]
        upper_near = tl.load(upper_row + near).to(tl.float32)  # (ROWS, BYTES)
        upper_far = tl.load(upper_row + far).to(tl.float32)
        lower_near = tl.load(lower_row + near).to(tl.float32)
        lower_far = tl.load(lower_row + far).to(tl.float32)
        # logits at the rows of the two probabilities, then at their columns
        first_near = between(upper_near, lower_near, upper_share)
        first_far = between(upper_far, lower_far, upper_share)
        second_near = between(upper_near, lower_near, lower_share)
        second_far = between(upper_far, lower_far, lower_share)
        first = between(
            tl.sigmoid(between(first_near, first_far, near_share)),
            tl.sigmoid(between(first_near, first_far, far_share)),
            share_x,
        )
        second = between(
            tl.sigmoid(between(second_near, second_far, near_share)),
            tl.sigmoid(between(second_near, second_far, far_share)),
            share_x,
        )
        set_ = (between(first, second, share_y) > 0.5) & (column < crop_width)[None, :]
        packed += set_.to(tl.int32) << (7 - bit)
    place = bits + tl.load(crop + FIRST_BYTE) + row.to(tl.int64)[:, None] * row_bytes + byte[None, :]
    tl.store(place, packed.to(tl.uint8), (row < crop_height)[:, None] & (byte < row_bytes)[None, :])


def mask_extents(logits: Tensor) -> Tensor:
    """Return the extents of the positive logits, in one launch.

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


def packed_masks(logits: Tensor, crops: IntArray) -> tuple[Tensor, IntArray]:
    """Masks of crops, eight pixels a byte, in one launch.

    Args:
        logits: `(B, K, h, w)` float32, float16 or bfloat16, finite.
        crops: `(n, 9)` plane (`image * K + slot`), top, left, height, width in original pixels, and the height
            and width of the resized and of the original image; a resized side times the original one is below
            `LARGEST_PRODUCT`.

    Returns:
        bits: `(N,)` uint8 on the logits' device: the crops one after the other, row by row, each row padded to whole
            bytes, the leftmost pixel in the highest bit (`numpy.unpackbits`' order).
        starts: `(n + 1,)` first byte of each crop, and N.
    """
    table, tiles, starts = crop_table(crops)
    bits = logits.new_empty((int(starts[-1]),), dtype=torch.uint8)
    if len(bits) > 0:
        table = (table.pin_memory() if logits.is_cuda else table).to(logits.device, non_blocking=True)
        launch_packed_masks(logits.contiguous(), table, tiles, bits)
    return bits, starts


def crop_table(crops: IntArray) -> tuple[Tensor, int, IntArray]:
    """The kernel's table `(n, 11)` int64, how many programs fill the crops, and the first byte of each `(n + 1,)`."""
    heights, row_bytes = crops[:, HEIGHT.value], -(-crops[:, WIDTH.value] // 8)
    starts = _starts(heights * row_bytes)
    tiles = _starts(-(-heights // TILE_ROWS) * -(-row_bytes // TILE_BYTES))
    return torch.from_numpy(np.column_stack((crops, starts[:-1], tiles[:-1]))), int(tiles[-1]), starts


def launch_packed_masks(logits: Tensor, table: Tensor, tiles: int, bits: Tensor) -> None:
    """The kernel alone: `table (n, 11)` int64 is on the logits' device, and `tiles` programs fill `bits`."""
    with torch.cuda.device_of(logits):
        packed_masks_kernel[(tiles,)](
            logits, table, len(table), *logits.shape[2:], bits, ROWS=TILE_ROWS, BYTES=TILE_BYTES, num_warps=4
        )


def first_probabilities(resized: int, original: int) -> IntArray:
    """`(original,)` the first of the two probabilities that each pixel of an axis lies between, rising."""
    at = (2 * np.arange(original, dtype=np.int64) + 1) * resized - 5 * original
    first: IntArray = np.maximum(np.minimum(at, 2 * original * (resized - 3)), 0) // (8 * original)
    return first


def _starts(sizes: IntArray) -> IntArray:
    return np.concatenate(([0], np.cumsum(sizes)))
