"""Select instances: class-wise greedy NMS of the candidates into a fixed number of slots.

The PyTorch reference form, built on torchvision's NMS.
"""

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms


def select_instances(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor]:
    """Keep the best candidates of every class that do not overlap a better one of their class.

    A candidate of score 0 (or less) is an empty slot and is never kept. Among equal scores the lower
    index comes first. A candidate is suppressed when its IoU with a kept one of the same class is
    strictly greater than the float32 value of `iou_threshold`.

    Args:
        boxes: `(B, N, 4)` float32 xyxy, network pixels.
        scores: `(B, N)` float32.
        labels: `(B, N)` whole numbers.
        iou_threshold: in 0..1.
        max_detections: K, the number of slots.

    Returns:
        `indices (B, K)` int64 into the N candidates, by falling score, empty slots 0; `count (B,)` int64.
    """
    batch = boxes.shape[0]
    indices = boxes.new_zeros((batch, max_detections), dtype=torch.int64)
    count = boxes.new_zeros((batch,), dtype=torch.int64)
    for i in range(batch):
        kept = _keep(boxes[i], scores[i], labels[i], iou_threshold)[:max_detections]
        indices[i, : len(kept)] = kept
        count[i] = len(kept)
    return indices, count


def _keep(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float) -> Tensor:
    threshold = float(np.float32(iou_threshold))
    live = torch.nonzero(scores > 0).squeeze(1)
    kept = [live[:0]]
    for label in labels[live].unique().tolist():
        own = live[labels[live] == label]
        order = own[torch.sort(scores[own], descending=True, stable=True).indices]
        # torchvision sorts again; falling whole numbers as scores keep our order of the ties
        ranks = torch.arange(len(order), 0, -1, dtype=torch.float32, device=boxes.device)
        kept.append(order[nms(boxes[order], ranks, threshold)])
    survivors = torch.cat(kept).sort().values  # by index, so that the stable sort breaks ties by it
    best_first = torch.sort(scores[survivors], descending=True, stable=True).indices
    return survivors[best_first]
