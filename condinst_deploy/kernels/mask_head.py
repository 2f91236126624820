"""The dynamic mask head as one kernel; `condinst_deploy.model.mask_head` is its reference.

A program holds a tile of pixels in registers and takes it through all three layers; nothing per instance but
the logits goes to memory, and each program reads each parameter once. Coordinates are float32 throughout.

Two bodies, by the type of the features. In float32 a program has one instance, and the layers are fused
multiply-adds: tensor cores have no float32. In float16 and bfloat16 a program has 16 instances, and the layers
are products on tensor cores. A product is 16 wide. Eight hidden channels (CondInst) fill half of it, so that two
instances share one; sixteen (mmdetection's BoxInst) fill it:

    hidden1 (pixels, 16) = relu(feats (pixels, C) @ W1 (C, 16) + coordinate term in float32)
    hidden2 (pixels, 16) = relu(hidden1 @ W2 + b2), where W2 is [W2 0; 0 W2'] for two instances
    logits (pixels, 16) += hidden2 @ (w3 in the column of each instance)

Pixels are the rows, so that the result of one product is the operand of the next in the same registers.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from condinst_deploy.model.config import MASK_STRIDE
from condinst_deploy.model.mask_head import dynamic_mask_head

STRIDE = tl.constexpr(MASK_STRIDE)
GROUP = tl.constexpr(16)  # instances of a program in half precision: the columns of the last product

MOST_CHANNELS = 16
"""Channels of the mask features that fit the depth of one product on tensor cores."""

MOST_HIDDEN = 16
"""Hidden channels that fit one product on tensor cores."""


@triton.jit
def relu(x):
    """NaN stays: the check for finite outputs must see it."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def mask_head_float32(
    feats, params, points, soi, slots, height, width, logits,
    CHANNELS: tl.constexpr, HIDDEN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """`TILE` pixels of one instance; program (pixel tile, slot, image)."""
    pixels = height * width
    instance = tl.program_id(2).to(tl.int64) * slots + tl.program_id(1)
    wide: tl.constexpr = 8 if HIDDEN <= 8 else 16  # hidden channels, after padding
    inputs: tl.constexpr = CHANNELS + 2
    w2: tl.constexpr = HIDDEN * inputs
    w3: tl.constexpr = w2 + HIDDEN * HIDDEN
    b1: tl.constexpr = w3 + HIDDEN
    b2: tl.constexpr = b1 + HIDDEN
    b3: tl.constexpr = b2 + HIDDEN
    own = params + instance * (b3 + 1)
    pixel = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = pixel < pixels
    scale = tl.load(soi + instance)
    x = tl.load(points + 2 * instance)
    y = tl.load(points + 2 * instance + 1)
    relative_x = tl.div_rn(x - ((pixel % width) * STRIDE + STRIDE // 2).to(tl.float32), scale)
    relative_y = tl.div_rn(y - ((pixel // width) * STRIDE + STRIDE // 2).to(tl.float32), scale)

    channel = tl.arange(0, wide)
    real = channel < HIDDEN
    row = own + channel * inputs  # of w1, one hidden channel each
    hidden = tl.load(own + b1 + channel, real, 0.0)[:, None] + tl.zeros((wide, TILE), tl.float32)  # (wide, TILE)
    hidden += tl.load(row, real, 0.0)[:, None] * relative_x[None, :]
    hidden += tl.load(row + 1, real, 0.0)[:, None] * relative_y[None, :]
    image = feats + tl.program_id(2).to(tl.int64) * CHANNELS * pixels
    for c in tl.static_range(CHANNELS):
        value = tl.load(image + c * pixels + pixel, inside, 0.0)
        hidden += tl.load(row + 2 + c, real, 0.0)[:, None] * value[None, :]
    hidden = relu(hidden)

    # the second layer's channels are used as soon as they are known
    logit = tl.load(own + b3) + tl.zeros((TILE,), tl.float32)
    for c in tl.static_range(HIDDEN):
        weights = tl.load(own + w2 + c * HIDDEN + channel, real, 0.0)
        second = tl.load(own + b2 + c) + tl.sum(weights[:, None] * hidden, axis=0)
        logit += tl.load(own + w3 + c) * relu(second)
    tl.store(logits + instance * pixels + pixel, logit, inside)


@triton.jit
def mask_head_half(
    feats, params, points, soi, slots, height, width, logits,
    CHANNELS: tl.constexpr, HIDDEN: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """`TILE` pixels of 16 instances; program (pixel tile, group of slots, image)."""
    kind: tl.constexpr = feats.dtype.element_ty
    pixels = height * width
    wide: tl.constexpr = 8 if HIDDEN <= 8 else 16  # hidden channels, after padding
    inputs: tl.constexpr = CHANNELS + 2
    w2: tl.constexpr = HIDDEN * inputs
    w3: tl.constexpr = w2 + HIDDEN * HIDDEN
    b1: tl.constexpr = w3 + HIDDEN
    b2: tl.constexpr = b1 + HIDDEN
    b3: tl.constexpr = b2 + HIDDEN
    size: tl.constexpr = b3 + 1
    pixel = tl.program_id(0) * TILE + tl.arange(0, TILE)
    inside = pixel < pixels
    xs = ((pixel % width) * STRIDE + STRIDE // 2).to(tl.float32)
    ys = ((pixel // width) * STRIDE + STRIDE // 2).to(tl.float32)
    lane = tl.arange(0, 16)
    image = feats + tl.program_id(2).to(tl.int64) * CHANNELS * pixels
    values = tl.load(
        image + lane[None, :] * pixels + pixel[:, None], inside[:, None] & (lane < CHANNELS)[None, :], 0.0
    )  # (TILE, 16)

    # past the last slot a program repeats it, and stores nothing
    first_slot = tl.program_id(1) * GROUP
    left = slots - first_slot
    first = tl.program_id(2).to(tl.int64) * slots + first_slot  # instance in the batch
    group = params + first * size
    places = points + first * 2
    sizes = soi + first
    part, channel = lane // wide, lane % wide  # which of the product's instances, and its hidden channel
    real = channel < HIDDEN
    sums = tl.load(group + tl.minimum(lane, left - 1) * size + b3).to(tl.float32)[None, :]
    sums += tl.zeros((TILE, GROUP), tl.float32)  # (TILE, 16 instances)
    for turn in range(0, GROUP, 16 // wide):
        instance = tl.minimum(turn + part, left - 1)  # (16,)
        own = instance * size
        # the coordinates are a term in float32: constant - slope_x * x - slope_y * y
        scale = 1.0 / tl.load(sizes + instance)
        slope_x = tl.load(group + own + channel * inputs, real, 0.0).to(tl.float32) * scale
        slope_y = tl.load(group + own + channel * inputs + 1, real, 0.0).to(tl.float32) * scale
        constant = tl.load(group + own + b1 + channel, real, 0.0).to(tl.float32)
        constant += slope_x * tl.load(places + 2 * instance) + slope_y * tl.load(places + 2 * instance + 1)
        term = (constant[None, :] - slope_x[None, :] * xs[:, None]) - slope_y[None, :] * ys[:, None]
        weights1 = tl.load(
            group + (own + channel * inputs + 2)[None, :] + lane[:, None],
            real[None, :] & (lane < CHANNELS)[:, None],
            0.0,
        )  # (16 features, 16)
        hidden = relu(tl.dot(values, weights1, term)).to(kind)  # (TILE, 16)

        block = (part[:, None] == part[None, :]) & real[None, :] & real[:, None]
        weights2 = tl.load(group + (own + w2 + channel * HIDDEN)[None, :] + channel[:, None], block, 0.0)  # (16, 16)
        bias2 = tl.load(group + own + b2 + channel, real, 0.0).to(tl.float32)[None, :]
        hidden = relu(tl.dot(hidden, weights2, bias2 + tl.zeros((TILE, 16), tl.float32))).to(kind)

        column = real[:, None] & ((turn + part)[:, None] == lane[None, :])
        weights3 = tl.load(group + (own + w3 + channel)[:, None] + tl.zeros((16, GROUP), tl.int32), column, 0.0)
        sums = tl.dot(hidden, weights3, sums)
    place = logits + (first + lane)[:, None] * pixels + pixel[None, :]  # (16, TILE)
    tl.store(place, tl.trans(sums).to(kind), (first_slot + lane < slots)[:, None] & inside[None, :])


@dataclass(frozen=True)
class MaskHeadLaunch:
    """Launch settings of the kernel of one type."""

    kernel: Any
    tile: int  # pixels of a program
    group: int  # instances of a program
    warps: int

    def grid(self, batch: int, slots: int, pixels: int) -> tuple[int, int, int]:
        """Programs: pixel tiles, groups of slots, images."""
        return triton.cdiv(pixels, self.tile), triton.cdiv(slots, self.group), batch


FLOAT32 = MaskHeadLaunch(mask_head_float32, tile=512, group=1, warps=4)
FLOAT32_WIDE = MaskHeadLaunch(mask_head_float32, tile=256, group=1, warps=4)  # 512 pixels spill registers on sm_90
HALF = MaskHeadLaunch(mask_head_half, tile=256, group=GROUP.value, warps=4)
LAUNCHES = {torch.float32: FLOAT32, torch.float16: HALF, torch.bfloat16: HALF}


def launch_of(dtype: str, hidden: int) -> MaskHeadLaunch:
    """The launch for features of a type ("float32", "float16", "bfloat16") and a hidden width."""
    if dtype != "float32":
        return HALF
    return FLOAT32 if hidden <= 8 else FLOAT32_WIDE


def supports_mask_head(mask_feats: Tensor, params: Tensor, hidden: int) -> bool:
    """Return whether the kernels cover these types and widths; published are (8, 8), (16, 8) and (16, 16)."""
    fits = mask_feats.shape[1] <= MOST_CHANNELS and hidden <= MOST_HIDDEN
    return fits and mask_feats.dtype == params.dtype and mask_feats.dtype in LAUNCHES


def fused_mask_head(mask_feats: Tensor, params: Tensor, points: Tensor, soi: Tensor, hidden: int = 8) -> Tensor:
    """Mask logits of every instance, in one launch; arguments and result as `dynamic_mask_head`'s.

    Types and widths that the kernels do not cover, and calls that want gradients, go to the reference.
    """
    wants_gradients = torch.is_grad_enabled() and (params.requires_grad or mask_feats.requires_grad)
    if wants_gradients or not supports_mask_head(mask_feats, params, hidden):
        return dynamic_mask_head(mask_feats, params, points, soi, hidden)
    batch, channels, height, width = mask_feats.shape
    slots = params.shape[1]
    logits = mask_feats.new_empty((batch, slots, height, width))
    if logits.numel() == 0:
        return logits
    launch = launch_of(str(mask_feats.dtype).removeprefix("torch."), hidden)
    with torch.cuda.device_of(mask_feats):  # Triton launches on the current device
        launch.kernel[launch.grid(batch, slots, height * width)](
            mask_feats.contiguous(), params.contiguous(), points.float().contiguous(), soi.float().contiguous(),
            slots, height, width, logits,
            CHANNELS=channels, HIDDEN=hidden, TILE=launch.tile, num_warps=launch.warps,
        )  # fmt: skip
    return logits
