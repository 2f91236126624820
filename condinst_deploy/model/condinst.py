"""The CondInst network: the model for training, and the reference of every parity test."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from condinst_deploy.contract import Preprocessing
from condinst_deploy.model.backbone import Backbone
from condinst_deploy.model.bifpn import BiFPN
from condinst_deploy.model.candidates import Candidates, candidates_from_levels
from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.model.fpn import FPN
from condinst_deploy.model.head import Head, LevelOutputs
from condinst_deploy.model.mask_branch import MaskBranch
from condinst_deploy.model.operations import REFERENCE, Operations


class Features(NamedTuple):
    """Outputs of the convolutional part of the network."""

    levels: list[LevelOutputs]  # P3..P7
    mask_feats: Tensor  # (B, mask_channels, H/8, W/8)
    semantic_logits: Tensor | None = None  # (B, C, H/8, W/8), in training mode of a model with that head


class Instances(NamedTuple):
    """The network's outputs, as every backend gives them (see `condinst_deploy.contract.OUTPUTS`)."""

    num_detections: Tensor  # (B,) int32
    boxes: Tensor  # (B, K, 4) float32 xyxy, network pixels
    scores: Tensor  # (B, K) float32
    labels: Tensor  # (B, K) int32
    mask_logits: Tensor  # (B, K, H/8, W/8)


class Normalize(nn.Module):
    """uint8 pixels to the backbone's input; the padding becomes zero *after* normalising."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(preprocessing.mean).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, image_sizes: Tensor) -> Tensor:
        """`(B, 3, H, W)` uint8 RGB and `(B, 2)` sizes before padding -> `(B, 3, H, W)` float32."""
        height, width = images.shape[-2:]
        inside_y = torch.arange(height, device=images.device) < image_sizes[:, :1]  # (B, H)
        inside_x = torch.arange(width, device=images.device) < image_sizes[:, 1:]  # (B, W)
        inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]
        normalized = (images.to(self.mean.dtype) - self.mean) / self.std
        return torch.where(inside, normalized, torch.zeros_like(normalized))


class CondInst(nn.Module):
    """CondInst (arXiv 2003.05664) with a ResNet and FPN or BiFPN."""

    def __init__(self, config: CondInstConfig | None = None) -> None:
        super().__init__()
        self.config = config or CondInstConfig()
        self.normalize = Normalize(self.config.preprocessing)
        self.backbone = Backbone(self.config)
        self.fpn = BiFPN(self.config) if self.config.neck == "bifpn" else FPN(self.config)
        self.head = Head(self.config)
        self.mask_branch = MaskBranch(self.config)
        self.operations: Operations = REFERENCE  # a GPU's backend puts the fused kernels here
        self._initialize()

    def features(self, normalized: Tensor) -> Features:
        """Run the convolutional part: `(B, 3, H, W)` normalised, H and W multiples of 32."""
        pyramid = self.fpn(self.backbone(normalized))
        semantic_logits = self.mask_branch.semantic_logits(pyramid) if self.training else None
        return Features(self.head(pyramid), self.mask_branch(pyramid), semantic_logits)

    def features_before_controller(self, normalized: Tensor) -> Features:
        """Return features for inference: the controller's inputs instead of the parameters of all points."""
        pyramid = self.fpn(self.backbone(normalized))
        return Features(self.head.before_controller(pyramid), self.mask_branch(pyramid))

    @torch.no_grad()
    def forward(self, images: Tensor, image_sizes: Tensor) -> Instances:
        """Detect instances.

        Args:
            images: `(B, 3, H, W)` uint8 RGB, resized and padded at the bottom and right to multiples of 32.
            image_sizes: `(B, 2)` height and width before padding.
        """
        levels, mask_feats, _ = self.features(self.normalize(images, image_sizes))
        candidates = [
            candidates_from_levels(levels, i, (int(size[0]), int(size[1])), self.config.selection)
            for i, size in enumerate(image_sizes.tolist())
        ]
        count, kept = self._slots(candidates)
        logits = self.operations.mask_head(mask_feats, kept.params, kept.points, kept.soi, self.config.dynamic_channels)
        scores = kept.scores + overflow(levels)[:, None]
        return Instances(count.to(torch.int32), kept.boxes, scores, kept.labels.to(torch.int32), logits)

    def _slots(self, images: list[Candidates]) -> tuple[Tensor, Candidates]:
        """Return the number of instances after NMS, `(B,)`, and K slots of each image, `(B, K, ...)`, filled with 0."""
        selection = self.config.selection
        # a score of 0 is never kept, so shorter lists are filled up with zeros; one place more keeps none empty
        longest = 1 + max(len(candidates.scores) for candidates in images)
        batch = Candidates(*(torch.stack([_padded(x, longest) for x in field]) for field in zip(*images, strict=True)))
        indices, count = self.operations.select(
            batch.boxes, batch.scores, batch.labels, selection.nms_iou, selection.max_detections
        )
        filled = torch.arange(selection.max_detections, device=count.device) < count[:, None]  # (B, K)
        slots = Candidates(*(_picked(field, indices, filled) for field in batch))
        # an empty slot's relative coordinates must stay finite
        return count, slots._replace(soi=slots.soi.clamp(min=1))

    def _initialize(self) -> None:
        """Initial weights of the family's CondInst; the classes begin at a probability of 0.01.

        PyTorch's own are kept where AdelaiDet does: in BiFPN and in the mask branch's two last 1x1 convolutions.
        """
        adelaidet, uniform = self.config.family == "adelaidet", partial(nn.init.kaiming_uniform_, a=1)
        neck: Callable[[Tensor], Tensor] = uniform if adelaidet else nn.init.xavier_uniform_
        semantic = list(self.mask_branch.semantic or [])[-1:]
        kept = {self.mask_branch.features, *semantic} if adelaidet else set()
        for part, fill in (
            (self.backbone, partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu")),
            (nn.Identity() if self.config.neck == "bifpn" else self.fpn, neck),
            (self.head, partial(nn.init.normal_, std=0.01)),
            (self.mask_branch, uniform),
        ):
            for module in part.modules():
                if isinstance(module, nn.Conv2d) and module not in kept:
                    fill(module.weight)
                    if module.bias is not None:
                        nn.init.zeros_(module.bias)
        for classifier in (self.head.cls_logits, *semantic):
            assert isinstance(classifier.bias, Tensor)
            nn.init.constant_(classifier.bias, -math.log((1 - 0.01) / 0.01))


def overflow(levels: Sequence[LevelOutputs]) -> Tensor:
    """`(B,)`: 0, or NaN for an image in which the head predicts a number that is not finite.

    A comparison with NaN is false: without this, an image whose towers overflow would have no candidates, and look as
    one in which there is nothing to find.
    """
    sums = [
        (x * 0).flatten(1).sum(dim=1) for level in levels for x in (level.cls_logits, level.distances, level.centerness)
    ]
    return torch.stack(sums).sum(dim=0)


def _padded(x: Tensor, slots: int) -> Tensor:
    return torch.cat((x, x.new_zeros((slots - x.shape[0], *x.shape[1:]))))


def _picked(x: Tensor, indices: Tensor, filled: Tensor) -> Tensor:
    """`x (B, N, ...)` at `indices (B, K)`, zeros where not `filled (B, K)`."""
    rows = x[torch.arange(len(x), device=x.device)[:, None], indices]
    return torch.where(filled.reshape(*filled.shape, *[1] * (x.ndim - 2)), rows, torch.zeros_like(rows))
