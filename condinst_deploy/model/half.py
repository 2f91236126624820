"""The network for inference in float16 or bfloat16."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from condinst_deploy.model.condinst import CondInst, Features
from condinst_deploy.model.fixed_slots import FixedSlots, ParamsAt
from condinst_deploy.model.folding import fold_batch_norms
from condinst_deploy.model.operations import REFERENCE, Operations

HalfType = Literal["float16", "bfloat16"]

TOWER_SHIFT = 5
"""Powers of two that the first convolution of a tower is scaled down by in float16. Its inputs are not normalised: on
the coarsest levels of trained models its outputs exceed 65,504. The GroupNorm behind it does not see the scale."""


class HalfNetwork(FixedSlots):
    """`FixedSlots` whose convolutions run in a half type, channels last, with BatchNorm folded into them.

    Distances, centerness, the controller's product and all that follows are float32: a distance of eight strides has
    steps of a 16th stride in bfloat16, which is 8 pixels at P7. On a GPU the fused mask head reads features and
    parameters in the half type; its sums and coordinates are float32.
    """

    def __init__(self, model: CondInst, operations: Operations, half: HalfType) -> None:
        """Convert a model in evaluation mode, in place."""
        super().__init__(model, operations)
        self.params = WideParamsAt()
        self.half_type: torch.dtype = getattr(torch, half)
        fold_batch_norms(model)
        if half == "float16":
            for tower in (model.head.cls_tower, model.head.box_tower):
                scale_before_norm(tower[0], TOWER_SHIFT)
        for part in (model.backbone, model.fpn, model.head, model.mask_branch):
            part.to(self.half_type)
            part.to(memory_format=torch.channels_last)
        for predictor in (model.head.box_pred, model.head.centerness):
            predictor.float().register_forward_pre_hook(_widened)
        model.head.controller.float()
        model.head.scales.float()

    def features(self, normalized: Tensor) -> Features:
        """The convolutional part; what decides about boxes and scores is float32."""
        given = normalized.to(self.half_type, memory_format=torch.channels_last)
        levels, mask_feats, _ = self.model.features_before_controller(given)
        return Features([level._replace(cls_logits=level.cls_logits.float()) for level in levels], mask_feats)

    def mask_head(self, mask_feats: Tensor, params: Tensor, points: Tensor, soi: Tensor) -> Tensor:
        """Mask logits `(B, K, h, w)`: of the half type on a GPU, float32 where the reference makes them."""
        if self.operations is REFERENCE:
            return super().mask_head(mask_feats.float().contiguous(), params, points, soi)
        return super().mask_head(mask_feats.contiguous(), params.to(self.half_type), points, soi)


class WideParamsAt(ParamsAt):
    """`ParamsAt` for features of a half type and a controller in float32."""

    def product(self, patches: Tensor, controller: nn.Conv2d) -> Tensor:
        """The controller's product in float32."""
        return F.linear(patches.float(), controller.weight.flatten(1), controller.bias)


@torch.no_grad()
def scale_before_norm(block: nn.Module, shift: int) -> None:
    """Scale the convolution of a `ConvNorm` by `2 ** -shift`, in place; the block's function stays the same.

    GroupNorm divides by the standard deviation, so its epsilon is scaled with the variance. In float32 the results
    differ by nothing, because a power of two changes exponents alone.
    """
    conv, norm = block.conv, block.norm
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.GroupNorm)
    conv.weight.mul_(2.0**-shift)
    if conv.bias is not None:
        conv.bias.mul_(2.0**-shift)
    norm.eps *= 4.0**-shift


def _widened(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(argument.float() for argument in arguments)
