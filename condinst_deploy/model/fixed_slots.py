"""The network with fixed slots, batched over images: candidates, selection and gathering with static shapes.

It is what is exported, and what runs in half precision. It builds on the reference model's modules for everything that
is convolution; the reference writes candidates and selection with ragged lists, so that a comparison of the two
compares two implementations.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condinst_deploy.model.condinst import CondInst, Features, Instances
from condinst_deploy.model.config import SIZES_OF_INTEREST, STRIDES, CondInstConfig
from condinst_deploy.model.head import LevelOutputs
from condinst_deploy.model.operations import Operations

SCORE_THRESHOLD = "score_threshold"
"""Name of the initializer that holds the threshold of the candidates."""


class LevelCandidates(NamedTuple):
    """The best (location, class) pairs of one level, `n = candidates_per_level` of them, for all images."""

    boxes: Tensor  # (B, n, 4) xyxy
    scores: Tensor  # (B, n), 0 where there is no candidate
    labels: Tensor  # (B, n) int32
    points: Tensor  # (B, n, 2)
    soi: Tensor  # (B, n)
    trouble: Tensor  # of a level (B, m) all its predictions; of all levels (B, 1) 1 if one is not finite, else 0


class FixedSlots(nn.Module):
    """`images (B, 3, H, W)` uint8, `image_sizes (B, 2)` int32 -> the contract's outputs.

    Its steps are modules because the exporter names nodes after modules, and precision policies match names.
    """

    def __init__(self, model: CondInst, operations: Operations) -> None:
        super().__init__()
        self.model, self.operations = model, operations
        self.candidates = AllCandidates(model.config)
        self.neighbourhoods, self.params = Neighbourhoods(), ParamsAt()
        # a buffer becomes an initializer of this name, which verification can lower on a copy
        self.score_threshold: Tensor
        self.register_buffer(SCORE_THRESHOLD, torch.tensor(model.config.selection.score_threshold))

    def forward(self, images: Tensor, image_sizes: Tensor) -> Instances:
        """Detect instances; empty slots are zero."""
        levels, mask_feats, _ = self.features(self.model.normalize(images, image_sizes))
        candidates = self.candidates(levels, image_sizes, self.score_threshold)
        indices, count = self.select(candidates)
        slots = indices.to(torch.int64)  # (B, K)
        kept = torch.arange(slots.shape[1], device=count.device) < count[:, None]
        # `where`, not a product: in an empty slot a value that is not finite must become 0, and NaN * 0 is NaN
        boxes = torch.where(kept[..., None], _rows(candidates.boxes, slots), 0.0)
        scores = _marked(torch.where(kept, candidates.scores.gather(1, slots), 0.0), candidates.trouble)
        labels = torch.where(kept, candidates.labels.gather(1, slots), 0)
        points, soi = _rows(candidates.points, slots), candidates.soi.gather(1, slots)
        features = [level.params for level in levels]
        cells = self.neighbourhoods(points, soi, [x.shape[2:] for x in features])
        params = self.params(features, cells, self.model.head.controller, kept)
        return Instances(count, boxes, scores, labels, self.mask_head(mask_feats, params, points, soi))

    def features(self, normalized: Tensor) -> Features:
        """The convolutional part, with the controller's inputs."""
        return self.model.features_before_controller(normalized)

    def select(self, candidates: LevelCandidates) -> tuple[Tensor, Tensor]:
        """Candidates -> indices of the kept ones `(B, K)` and their number `(B,)`."""
        selection = self.model.config.selection
        return self.operations.select(
            candidates.boxes, candidates.scores, candidates.labels, selection.nms_iou, selection.max_detections
        )

    def mask_head(self, mask_feats: Tensor, params: Tensor, points: Tensor, soi: Tensor) -> Tensor:
        """Mask logits `(B, K, h, w)`."""
        return self.operations.mask_head(mask_feats, params, points, soi, self.model.config.dynamic_channels)


class AllCandidates(nn.Module):
    """Candidates of P3..P7, by the rules of the model's family."""

    def __init__(self, config: CondInstConfig) -> None:
        super().__init__()
        self.family = config.family
        levels = enumerate(zip(STRIDES, SIZES_OF_INTEREST, strict=True), start=3)
        self.levels = nn.ModuleDict({f"p{i}": CandidatesOfLevel(config, *level) for i, level in levels})

    def forward(self, levels: list[LevelOutputs], image_sizes: Tensor, threshold: Tensor) -> LevelCandidates:
        """P3..P7 and sizes before padding -> all candidates, level after level."""
        parts = [part(level, threshold) for level, part in zip(levels, self.levels.values(), strict=True)]
        merged = LevelCandidates(*(torch.cat(field, dim=1) for field in zip(*parts, strict=True)))
        merged = merged._replace(trouble=_trouble(merged.trouble))
        # AdelaiDet's boxes stay as they are until the image's original size (runtime/postprocess.py)
        return merged if self.family == "adelaidet" else _inside(merged, image_sizes)


class CandidatesOfLevel(nn.Module):
    """Threshold, top-k and decoding of one level."""

    def __init__(self, config: CondInstConfig, stride: int, soi: int) -> None:
        super().__init__()
        self.num_classes, self.limit = config.num_classes, config.selection.candidates_per_level
        self.by_product = config.family == "adelaidet"
        self.stride, self.soi = stride, soi

    def forward(self, level: LevelOutputs, threshold: Tensor) -> LevelCandidates:
        """One level, for all images of the batch."""
        height, width = level.cls_logits.shape[2:]
        centerness = level.centerness.sigmoid()  # (B, 1, h, w)
        rank = level.cls_logits.sigmoid() * (centerness if self.by_product else 1)
        rank = rank.permute(0, 2, 3, 1).flatten(1)  # (B, C, h, w) -> (B, h*w*C)
        passed = torch.where(rank > threshold, rank, 0.0)  # NaN passes no threshold
        # a small level has fewer pairs than the limit, which TopK does not accept: fill up with zeros
        best, pairs = F.pad(passed, (0, self.limit)).topk(self.limit, dim=1)  # (B, n)
        location = (pairs // self.num_classes).clamp(max=height * width - 1)
        row = location // width
        x = (location - row * width).to(torch.float32) * self.stride + self.stride / 2
        y = row.to(torch.float32) * self.stride + self.stride / 2
        sides = level.distances.flatten(2).unbind(1)
        left, top, right, bottom = (side.gather(1, location) * self.stride for side in sides)
        scores = best.sqrt() if self.by_product else best * centerness.flatten(1).gather(1, location)
        return LevelCandidates(
            boxes=torch.stack((x - left, y - top, x + right, y + bottom), dim=2),
            # what is not finite becomes 0, which is never kept
            scores=torch.where((scores > 0) & (left + top + right + bottom < torch.inf), scores, 0.0),
            labels=(pairs - pairs // self.num_classes * self.num_classes).to(torch.int32),
            points=torch.stack((x, y), dim=2),
            soi=torch.full_like(best, self.soi),
            trouble=torch.cat((level.cls_logits, level.centerness, level.distances), dim=1).flatten(1),
        )


class Neighbourhoods(nn.Module):
    """Indices of the 3x3 cells around the kept points in the maps of P3..P7."""

    def forward(self, points: Tensor, soi: Tensor, sizes: Sequence[torch.Size]) -> list[tuple[Tensor, Tensor]]:
        """`points (B, K, 2)`, `soi (B, K)`, heights and widths -> for each level, indices and whether they count.

        Both are `(B, K * 9)`. A cell counts where it lies inside the map and its point is of that level.
        """
        of_level = [(soi == own)[..., None] for own in SIZES_OF_INTEREST]  # (B, K, 1)
        stride, height, width = (
            reduce(torch.add, (own.to(torch.int64) * number for own, number in zip(of_level, numbers, strict=True)))
            for numbers in (STRIDES, [size[0] for size in sizes], [size[1] for size in sizes])
        )  # (B, K, 1) each
        steps = torch.arange(-1, 2, device=points.device)
        # a point is its cell's centre, so that cutting off gives the cell
        columns, rows = ((points / stride).to(torch.int64)[..., axis, None] + steps for axis in (0, 1))  # (B, K, 3)
        inside_x, inside_y = (columns >= 0) & (columns < width), (rows >= 0) & (rows < height)
        # (B, K, 3, 3) -> (B, K, 9)
        inside = (inside_y[..., None] & inside_x[..., None, :]).flatten(2)
        index = (rows[..., None] * width[..., None] + columns[..., None, :]).flatten(2)
        return [
            (index.clamp(0, size[0] * size[1] - 1).flatten(1), (inside & own).flatten(1))
            for own, size in zip(of_level, sizes, strict=True)
        ]


class ParamsAt(nn.Module):
    """The controller at the kept points alone: 100 of the 22,400 of an image of 800x1344.

    A 3x3 convolution at one point is a product of its weights with the nine cells around the point.
    """

    def forward(
        self, features: list[Tensor], cells: list[tuple[Tensor, Tensor]], controller: nn.Conv2d, kept: Tensor
    ) -> Tensor:
        """The controller's inputs of P3..P7, cells around `K` points -> `(B, K, num_params)`; 0 where not `kept`."""
        around = reduce(torch.add, (_picked(x, *level) for x, level in zip(features, cells, strict=True)))
        # (B, C, K * 9) -> (B, K, C * 9), the order of the weights
        patches = around.unflatten(2, (-1, 9)).transpose(1, 2).flatten(2)
        return torch.where(kept[..., None], self.product(patches, controller), 0.0)

    def product(self, patches: Tensor, controller: nn.Conv2d) -> Tensor:
        """`(B, K, C * 9)` -> `(B, K, num_params)`."""
        return F.linear(patches, controller.weight.flatten(1), controller.bias)


def _picked(x: Tensor, indices: Tensor, counts: Tensor) -> Tensor:
    """`x (B, C, h, w)` at `indices (B, n)` -> `(B, C, n)`, 0 where it does not count: a convolution pads with zeros."""
    picked = x.flatten(2).gather(2, indices[:, None].expand(-1, x.shape[1], -1))
    return torch.where(counts[:, None], picked, 0.0)  # a product would carry a level's NaN to all instances


def _trouble(predictions: Tensor) -> Tensor:
    """`(B, n)` -> `(B, 1)`: 0 where all of an image's are finite, else 1. A level that is not has no candidates.

    The flags are reduced, and not the values: TensorRT for RTX 1.7 does not build a sum over so long an axis in a
    profile of eight images, and a maximum need not propagate NaN.
    """
    return torch.where(predictions * 0 == 0, 0.0, 1.0).amax(dim=1, keepdim=True)


def _marked(scores: Tensor, trouble: Tensor) -> Tensor:
    """Scores `(B, K)` with the trouble `(B, 1)` of the levels in the last slot.

    A level that is not finite has no candidates, and the instances of the other levels stay right. The mark tells
    the reader of the outputs that the level's instances are missing.
    """
    slots = scores.shape[1]
    last = torch.arange(slots, device=scores.device) == slots - 1
    return scores + torch.where(last, (-trouble).sqrt(), 0.0)  # the root is 0, or NaN; a sum and no concatenation


def _inside(candidates: LevelCandidates, image_sizes: Tensor) -> LevelCandidates:
    """Boxes clamped to the images; those without area get the score of no candidate."""
    sizes = image_sizes.to(torch.float32)[:, None]  # (B, 1, 2) height, width
    limits = torch.cat((sizes.flip(2), sizes.flip(2)), dim=2)  # (B, 1, 4) width, height, width, height
    boxes = candidates.boxes.clamp(min=0).minimum(limits)
    has_area = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    return candidates._replace(boxes=boxes, scores=torch.where(has_area, candidates.scores, 0.0))


def _rows(x: Tensor, indices: Tensor) -> Tensor:
    """`x (B, N, D)` at `indices (B, K)` -> `(B, K, D)`."""
    return x.gather(1, indices[..., None].expand(-1, -1, x.shape[2]))
