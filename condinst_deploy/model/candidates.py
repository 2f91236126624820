"""Candidates of one image: threshold, per-level top-k, decoding. The PyTorch reference form."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from condinst_deploy.contract import Selection
from condinst_deploy.model.config import SIZES_OF_INTEREST, STRIDES
from condinst_deploy.model.head import LevelOutputs, level_points


class Candidates(NamedTuple):
    """Candidates of one image, in descending order of score within each level."""

    boxes: Tensor  # (n, 4) xyxy, network pixels
    scores: Tensor  # (n,)
    labels: Tensor  # (n,) int64
    params: Tensor  # (n, num_params)
    points: Tensor  # (n, 2) x, y, network pixels
    soi: Tensor  # (n,) size of interest


def candidates_from_levels(
    levels: Sequence[LevelOutputs], image: int, size: tuple[int, int], selection: Selection
) -> Candidates:
    """Candidates of image `image` of the batch over all levels, by the rules of the selection's family.

    Per level, the best (location, class) pairs above the threshold, at most `candidates_per_level` of them.
    By mmdetection's rules the boxes are clamped to the resized image, and those without area dropped;
    by AdelaiDet's they stay as they are, and `runtime/postprocess.py` clips them in the original image.

    Args:
        levels: the head's outputs, P3..P7.
        image: index in the batch.
        size: `(height, width)` of the resized image before padding.
        selection: thresholds and limits.
    """
    parts = [
        _level_candidates(LevelOutputs(*(t[image] for t in level)), stride, soi, selection)
        for level, stride, soi in zip(levels, STRIDES, SIZES_OF_INTEREST, strict=True)
    ]
    merged = Candidates(*(torch.cat(field) for field in zip(*parts, strict=True)))
    return merged if selection.family == "adelaidet" else _clamped(merged, size)


def ranked_by(level: LevelOutputs, selection: Selection) -> Tensor:
    """Return scores for threshold and top-k, `(..., C, h, w)`: class probabilities, for AdelaiDet times centerness."""
    probabilities = level.cls_logits.sigmoid()
    return probabilities * level.centerness.sigmoid() if selection.family == "adelaidet" else probabilities


def _clamped(merged: Candidates, size: tuple[int, int]) -> Candidates:
    height, width = size
    x1, y1, x2, y2 = merged.boxes.unbind(1)
    boxes = torch.stack((x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), dim=1)
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return Candidates(*(field[has_area] for field in merged._replace(boxes=boxes)))


def _level_candidates(level: LevelOutputs, stride: int, soi: int, selection: Selection) -> Candidates:
    num_classes, height, width = level.cls_logits.shape
    points = level_points(height, width, stride, level.cls_logits.device)
    rank = ranked_by(level, selection).permute(1, 2, 0).reshape(-1)  # (C, h, w) -> (h*w*C,)
    above = torch.nonzero(rank > selection.score_threshold).squeeze(1)
    order = torch.sort(rank[above], descending=True, stable=True).indices
    pairs = above[order[: selection.candidates_per_level]]
    location, label = pairs // num_classes, pairs % num_classes
    centerness = level.centerness.reshape(-1).sigmoid()[location]
    distances = level.distances.reshape(4, -1).T[location] * stride
    centre = points[location]
    return Candidates(
        boxes=torch.cat((centre - distances[:, :2], centre + distances[:, 2:]), dim=1),
        scores=rank[pairs].sqrt() if selection.family == "adelaidet" else rank[pairs] * centerness,
        labels=label,
        params=level.params.reshape(level.params.shape[0], -1).T[location],
        points=centre,
        soi=torch.full_like(centerness, soi),
    )
