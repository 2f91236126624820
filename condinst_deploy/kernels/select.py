"""Instance selection as one kernel; `condinst_deploy.model.select` is its reference.

A round takes the best live candidate of an image, records it and takes it and its rivals out, so there are as many
rounds as instances are kept, never more than K; images do not wait for each other. A program goes through the
candidates in chunks. Between rounds it keeps one bit of each candidate in registers: whether it is live. Boxes,
labels and scores of live candidates come from the cache in every round. So registers do not limit the number of
candidates, and nothing spills.

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

CHUNK = 2048
"""Candidates that a program takes at once, at most."""


@triton.jit
def select_instances_kernel(
    boxes, scores, labels, candidates, slots, indices, count,
    THRESHOLD: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """All candidates of one image; program (image)."""
    image = tl.program_id(0).to(tl.int64)
    own_boxes = boxes + image * candidates * 4
    own_scores = scores + image * candidates
    own_labels = labels + image * candidates
    own_indices = indices + image * slots
    lane = tl.arange(0, CHUNK)
    live = tl.zeros((CHUNK,), tl.int32)  # bit i: candidate i * CHUNK + lane
    best_score = tl.zeros((CHUNK,), tl.float32)
    best_position = tl.zeros((CHUNK,), tl.int32)
    for i in tl.range(0, BLOCK // CHUNK):
        position = i * CHUNK + lane
        score = tl.load(own_scores + position, position < candidates, 0.0)
        live |= (score > 0.0).to(tl.int32) << i
        better = score > best_score  # false for NaN
        best_score = tl.where(better, score, best_score)
        best_position = tl.where(better, position, best_position)
    best = tl.max(best_score, axis=0)
    kept = 0
    while (kept < slots) & (best > 0.0):
        # among equal scores the first
        pick = tl.min(tl.where(best_score == best, best_position, BLOCK), axis=0)
        tl.store(own_indices + kept, pick)
        kept += 1
        pick_x1 = tl.load(own_boxes + pick * 4)
        pick_y1 = tl.load(own_boxes + pick * 4 + 1)
        pick_x2 = tl.load(own_boxes + pick * 4 + 2)
        pick_y2 = tl.load(own_boxes + pick * 4 + 3)
        pick_label = tl.load(own_labels + pick)
        best_score = tl.zeros((CHUNK,), tl.float32)
        for i in tl.range(0, BLOCK // CHUNK):
            position = i * CHUNK + lane
            lives = (live >> i) & 1 == 1
            corners = tl.load(own_boxes + position[:, None] * 4 + tl.arange(0, 4)[None, :], lives[:, None], 0.0)
            xs, ys = tl.split(corners.reshape(CHUNK, 2, 2))
            x1, x2 = tl.split(xs)
            y1, y2 = tl.split(ys)
            same = tl.load(own_labels + position, lives, -1) == pick_label
            width = tl.maximum(tl.minimum(x2, pick_x2) - tl.maximum(x1, pick_x1), 0.0)
            height = tl.maximum(tl.minimum(y2, pick_y2) - tl.maximum(y1, pick_y1), 0.0)
            overlap = width * height
            union = (x2 - x1) * (y2 - y1) + (pick_x2 - pick_x1) * (pick_y2 - pick_y1) - overlap
            rival = same & (tl.div_rn(overlap, union) > THRESHOLD)
            gone = lives & (rival | (position == pick))
            live = live ^ (gone.to(tl.int32) << i)
            score = tl.load(own_scores + position, lives, 0.0)
            better = (score > best_score) & (gone == 0)
            best_score = tl.where(better, score, best_score)
            best_position = tl.where(better, position, best_position)
        best = tl.max(best_score, axis=0)
    tl.store(count + image, kept)
    for slot in range(kept, slots):
        tl.store(own_indices + slot, 0)


def block_of(candidates: int) -> int:
    """Candidates that a program has room for: a power of two up to a chunk, then whole chunks."""
    if candidates > CHUNK:
        return -(-candidates // CHUNK) * CHUNK
    return max(32, int(triton.next_power_of_2(candidates)))


def chunk_of(block: int) -> int:
    """Candidates that a program takes at once."""
    return min(block, CHUNK)


def warps_of(block: int) -> int:
    """Warps of a program: a thread takes four candidates at once where there are enough."""
    return max(4, chunk_of(block) // 128)


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
            THRESHOLD=float(np.float32(iou_threshold)), BLOCK=block, CHUNK=chunk_of(block),
            num_warps=warps_of(block), enable_fp_fusion=False,
        )  # fmt: skip
    return indices, count
