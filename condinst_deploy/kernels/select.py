"""Instance selection as one kernel; `condinst_deploy.model.select` is its reference.

A program has the live scores of all candidates of an image in registers. A round takes the best, records it and
takes it and its rivals out, so there are as many rounds as instances are kept, never more than K; images do
not wait for each other. Built without contraction to fused multiply-adds, and with IEEE division: an IoU has the
reference's bits, and what lies at the threshold falls on the reference's side.
"""

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from condinst_deploy.model.select import select_instances

MOST_CANDIDATES = 8192
"""Candidates of an image whose scores fit the registers of one program."""


@triton.jit
def select_instances_kernel(
    boxes, scores, labels, candidates, slots, indices, count,
    THRESHOLD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """All candidates of one image; program (image)."""
    image = tl.program_id(0).to(tl.int64)
    own_boxes = boxes + image * candidates * 4
    own_labels = labels + image * candidates
    own_indices = indices + image * slots
    position = tl.arange(0, BLOCK)
    real = position < candidates
    live = tl.load(scores + image * candidates + position, real, 0.0)  # 0: empty, kept or suppressed
    kept = 0
    best, pick = tl.max(live, axis=0, return_indices=True, return_indices_tie_break_left=True)
    while (kept < slots) & (best > 0.0):
        tl.store(own_indices + kept, pick)
        kept += 1
        pick_x1 = tl.load(own_boxes + pick * 4)
        pick_y1 = tl.load(own_boxes + pick * 4 + 1)
        pick_x2 = tl.load(own_boxes + pick * 4 + 2)
        pick_y2 = tl.load(own_boxes + pick * 4 + 3)
        # boxes and labels come from the cache in every round: the registers would not hold them, too
        corners = tl.load(own_boxes + position[:, None] * 4 + tl.arange(0, 4)[None, :], real[:, None], 0.0)
        xs, ys = tl.split(corners.reshape(BLOCK, 2, 2))
        x1, x2 = tl.split(xs)
        y1, y2 = tl.split(ys)
        same = tl.load(own_labels + position, real, -1) == tl.load(own_labels + pick)
        width = tl.maximum(tl.minimum(x2, pick_x2) - tl.maximum(x1, pick_x1), 0.0)
        height = tl.maximum(tl.minimum(y2, pick_y2) - tl.maximum(y1, pick_y1), 0.0)
        overlap = width * height
        union = (x2 - x1) * (y2 - y1) + (pick_x2 - pick_x1) * (pick_y2 - pick_y1) - overlap
        rival = same & (tl.div_rn(overlap, union) > THRESHOLD)
        live = tl.where(rival | (position == pick), 0.0, live)
        best, pick = tl.max(live, axis=0, return_indices=True, return_indices_tie_break_left=True)
    tl.store(count + image, kept)
    for slot in range(kept, slots):
        tl.store(own_indices + slot, 0)


def block_of(candidates: int) -> int:
    """Candidates that a program has room for: a power of two."""
    return max(32, int(triton.next_power_of_2(candidates)))


def warps_of(block: int) -> int:
    """Warps of a program, so that sm 80 and 90 have registers enough."""
    return 8 if block == MOST_CANDIDATES else 4


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
            THRESHOLD=float(np.float32(iou_threshold)), BLOCK=block,
            num_warps=warps_of(block), enable_fp_fusion=False,
        )  # fmt: skip
    return indices, count
