"""Instance selection as one kernel; `condinst_deploy.model.select` is its reference.

A program selects for one image, and images do not wait for each other. It goes through the live candidates by falling
score, a slice at a time:

1. A search by halving, which first tries the width of the last slice, finds the score at which a slice begins: at
   most `SLICE` candidates are in it, and not less than half of that while there are more. Each step reads all scores,
   nothing else.
2. The candidates of the slice are compacted: a prefix sum gives each its lane. Their boxes are read, once.
3. Candidates that an instance of an earlier slice suppresses are taken out.
4. A round takes the best candidate that is left, records it, and takes it and its rivals out.

So the box of a candidate is read only if fewer than K instances are better than its slice, and a round goes through
one slice, however many candidates there are. Nothing but the end of the last slice is kept for the candidates outside
it: their number is not limited by registers, and nothing spills.

Built without contraction to fused multiply-adds, and with IEEE division: an IoU has the reference's bits, and what
lies at the threshold falls on the reference's side. A score that is NaN is no candidate, as in the reference.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from condinst_deploy.model.select import select_instances

MOST_CANDIDATES = 8192
"""Candidates of an image that the kernel was compiled and checked for."""

CHUNK = 1024
"""Candidates whose scores a program reads at once, at most."""

SLICE = 512
"""Candidates of a slice, at most."""

PICKS = tl.constexpr(4)
"""Kept instances that a slice is compared with at once."""


@triton.jit
def keys_at(scores, position, candidates, BLOCK: tl.constexpr):
    """Keys of candidates, 0 for those that are none. A higher score is first, then a lower index; all differ."""
    score = tl.load(scores + position, position < candidates, 0.0)
    bits = score.to(tl.int32, bitcast=True).to(tl.int64)  # positive numbers are ordered as their bits
    return tl.where(score > 0.0, bits * BLOCK + (BLOCK - 1 - position), 0)  # false for NaN


@triton.jit
def slice_begin(
    scores, candidates, least, end, left, guess, BLOCK: tl.constexpr, CHUNK: tl.constexpr, SLICE: tl.constexpr
):
    """The key where a slice begins that ends before `end`, and its size; `left` keys are between `least` and `end`."""
    low, high = least, end
    begin, size = least, left  # all of them, if they are few
    while (size > SLICE) | ((begin > least) & (size < SLICE // 2)):
        low = tl.where(size > SLICE, begin, low)
        high = tl.where(size > SLICE, high, begin)
        begin = tl.where((guess > low) & (guess < high), guess, low + (high - low) // 2)
        guess = low * 0  # tried once
        inside = tl.zeros((CHUNK,), tl.int32)
        for first in tl.range(0, candidates, CHUNK):
            key = keys_at(scores, first + tl.arange(0, CHUNK), candidates, BLOCK)
            inside += ((key >= begin) & (key < end)).to(tl.int32)
        size = tl.sum(inside, axis=0)
    return begin, size


@triton.jit
def compacted(scores, candidates, begin, end, BLOCK: tl.constexpr, CHUNK: tl.constexpr, SLICE: tl.constexpr):
    """The keys from `begin` to before `end`, in the candidates' order, then zeros."""
    found = tl.zeros((SLICE,), tl.int64)
    before = 0
    for first in tl.range(0, candidates, CHUNK):
        key = keys_at(scores, first + tl.arange(0, CHUNK), candidates, BLOCK)
        inside = ((key >= begin) & (key < end)).to(tl.int32)
        number = tl.sum(inside, axis=0)
        if number > 0:
            until = tl.cumsum(inside, axis=0)
            wanted = tl.arange(0, SLICE) - before
            lane = tl.zeros((SLICE,), tl.int32)  # the first with more than `wanted` until it: by halving
            half = CHUNK // 2
            while half > 0:
                lane += tl.where(tl.gather(until, lane + half - 1, 0) <= wanted, half, 0)
                half = half // 2
            here = (wanted >= 0) & (wanted < number)
            found = tl.where(here, tl.gather(key, lane, 0), found)
            before += number
    return found


@triton.jit
def corners_at(boxes, index, mask, SIZE: tl.constexpr):
    """x1, y1, x2, y2 of some candidates."""
    corners = tl.load(boxes + index[:, None] * 4 + tl.arange(0, 4)[None, :], mask[:, None], 0.0)
    xs, ys = tl.split(corners.reshape(SIZE, 2, 2))
    x1, x2 = tl.split(xs)
    y1, y2 = tl.split(ys)
    return x1, y1, x2, y2


@triton.jit
def overlap(x1, y1, x2, y2, other_x1, other_y1, other_x2, other_y2, THRESHOLD: tl.constexpr):
    """True where the IoU is above the threshold; false where it is NaN."""
    width = tl.maximum(tl.minimum(x2, other_x2) - tl.maximum(x1, other_x1), 0.0)
    height = tl.maximum(tl.minimum(y2, other_y2) - tl.maximum(y1, other_y1), 0.0)
    inter = width * height
    union = (x2 - x1) * (y2 - y1) + (other_x2 - other_x1) * (other_y2 - other_y1) - inter
    return tl.div_rn(inter, union) > THRESHOLD


@triton.jit
def select_instances_kernel(
    boxes, scores, labels, candidates, slots, indices, count,
    THRESHOLD: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr, SLICE: tl.constexpr,
):  # fmt: skip
    """All candidates of one image; program (image). Labels fit 32 bits."""
    image = tl.program_id(0).to(tl.int64)
    own_boxes = boxes + image * candidates * 4
    own_scores = scores + image * candidates
    own_labels = labels + image * candidates
    own_indices = indices + image * slots

    number = tl.zeros((CHUNK,), tl.int32)
    highest = tl.zeros((CHUNK,), tl.int64)
    lowest = tl.full((CHUNK,), 0x7FFFFFFFFFFFFFFF, tl.int64)
    for first in tl.range(0, candidates, CHUNK):
        key = keys_at(own_scores, first + tl.arange(0, CHUNK), candidates, BLOCK)
        number += (key > 0).to(tl.int32)
        highest = tl.maximum(highest, key)
        lowest = tl.minimum(lowest, tl.where(key > 0, key, 0x7FFFFFFFFFFFFFFF))
    left = tl.sum(number, axis=0)
    end = tl.max(highest, axis=0) + 1
    least = tl.min(lowest, axis=0)

    kept = 0
    guess = least * 0
    while (kept < slots) & (left > 0):
        begin, size = slice_begin(own_scores, candidates, least, end, left, guess, BLOCK, CHUNK, SLICE)
        key = compacted(own_scores, candidates, begin, end, BLOCK, CHUNK, SLICE)
        guess = begin - (end - begin)  # the next slice may be as wide
        end = begin
        left -= size
        index = (BLOCK - 1 - key % BLOCK).to(tl.int32)
        x1, y1, x2, y2 = corners_at(own_boxes, index, key > 0, SLICE)
        label = tl.load(own_labels + index, key > 0, -1).to(tl.int32)

        tl.debug_barrier()  # one thread wrote the indices, all read them
        for first in tl.range(0, kept, PICKS):
            place = first + tl.arange(0, PICKS)
            pick = tl.load(own_indices + place, place < kept, 0).to(tl.int32)
            pick_x1, pick_y1, pick_x2, pick_y2 = corners_at(own_boxes, pick, place < kept, PICKS)
            same = label[:, None] == tl.load(own_labels + pick, place < kept, -1).to(tl.int32)[None, :]
            rival = same & (place < kept)[None, :] & overlap(
                x1[:, None], y1[:, None], x2[:, None], y2[:, None],
                pick_x1[None, :], pick_y1[None, :], pick_x2[None, :], pick_y2[None, :], THRESHOLD,
            )  # fmt: skip
            key = tl.where(tl.max(rival.to(tl.int32), axis=1) > 0, 0, key)

        best = tl.max(key, axis=0)
        while (kept < slots) & (best > 0):
            pick = (BLOCK - 1 - best % BLOCK).to(tl.int32)
            tl.store(own_indices + kept, pick)
            kept += 1
            pick_x1 = tl.load(own_boxes + pick * 4)
            pick_y1 = tl.load(own_boxes + pick * 4 + 1)
            pick_x2 = tl.load(own_boxes + pick * 4 + 2)
            pick_y2 = tl.load(own_boxes + pick * 4 + 3)
            rival = overlap(x1, y1, x2, y2, pick_x1, pick_y1, pick_x2, pick_y2, THRESHOLD)
            gone = (rival & (label == tl.load(own_labels + pick).to(tl.int32))) | (key == best)
            key = tl.where(gone, 0, key)
            best = tl.max(key, axis=0)

    tl.store(count + image, kept)
    for slot in range(kept, slots):
        tl.store(own_indices + slot, 0)


def block_of(candidates: int) -> int:
    """Candidates that a program has room for: a power of two."""
    return max(32, int(triton.next_power_of_2(candidates)))


def constants_of(block: int) -> dict[str, int]:
    """The constants of a program with room for this number of candidates."""
    return {"BLOCK": block, "CHUNK": min(block, CHUNK), "SLICE": min(block, SLICE)}


def warps_of(block: int) -> int:
    """Warps of a program: a thread has two candidates of a slice."""
    return max(4, min(block, SLICE) // 64)


def fused_select_instances(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor]:
    """Keep the best candidates of all images, in one launch; arguments and results as `select_instances`'.

    More candidates than `MOST_CANDIDATES`, or scores that are not float32, go to the reference.
    """
    batch, candidates = scores.shape
    fits = 0 < candidates <= MOST_CANDIDATES and boxes.dtype == scores.dtype == torch.float32
    if not fits or batch == 0:
        return select_instances(boxes, scores, labels, iou_threshold, max_detections)
    indices = labels.new_empty((batch, max_detections), dtype=torch.int64)
    count = labels.new_empty((batch,), dtype=torch.int64)
    block = block_of(candidates)
    with torch.cuda.device_of(scores):  # Triton launches on the current device
        select_instances_kernel[(batch,)](
            boxes.contiguous(), scores.contiguous(), labels.contiguous(), candidates, max_detections, indices, count,
            THRESHOLD=float(np.float32(iou_threshold)), **constants_of(block),
            num_warps=warps_of(block), enable_fp_fusion=False,
        )  # fmt: skip
    return indices, count
