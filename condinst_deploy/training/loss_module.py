"""The model and its losses as one module: what runs forward in a training step, alone or in several processes."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from condinst_deploy.data.transforms import TrainingBatch
from condinst_deploy.model.condinst import CondInst, Features
from condinst_deploy.model.head import LevelOutputs
from condinst_deploy.model.loss_plan import Normalisers, Plan
from condinst_deploy.model.losses import LossRules, losses_of
from condinst_deploy.training.recipe import Recipe

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

NARROW = 16
"""Width of the backbone below which the layout is never channels last.

oneDNN's backward pass of a strided 1x1 convolution of 8 channels writes out of bounds in that layout (torch 2.14.0;
from 16 channels on it does not).
"""


class LossModule(nn.Module):
    """Images and targets in, losses out; `DistributedDataParallel` wraps this."""

    def __init__(self, model: CondInst, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self._rules = LossRules(recipe.losses, model.config.dynamic_channels)
        self._dtype = DTYPES[recipe.execution.precision]
        self._layout = layout_of(model, recipe)
        self._features: Callable[[Tensor], Features] = model.features
        if recipe.execution.compile:
            self._features = torch.compile(model.features, dynamic=True)

    def forward(self, batch: TrainingBatch, plan: Plan, normalisers: Normalisers) -> dict[str, Tensor]:
        """Losses of one part of a step, by name; scalars.

        Args:
            batch: on the model's device.
            plan: what it learns.
            normalisers: of the whole step.
        """
        images = self.model.normalize(batch.images, batch.image_sizes).contiguous(memory_format=self._layout)
        half = self._dtype is not torch.float32
        with torch.autocast(images.device.type, self._dtype) if half else nullcontext():
            features = self._features(images)
        if half:
            features = _in_float32(features)
        return losses_of(features, batch.targets, plan, normalisers, self._rules).terms


def layout_of(model: CondInst, recipe: Recipe) -> torch.memory_format:
    """Channels last: two thirds of the time of a step on a CPU, and what tensor cores take. Not for narrow models."""
    wanted = recipe.execution.channels_last and model.config.base_width >= NARROW
    return torch.channels_last if wanted else torch.contiguous_format


def _in_float32(features: Features) -> Features:
    """The losses sum over many points and pixels, and the mask head's coordinates need float32."""
    levels = [LevelOutputs(*(x.float() for x in level)) for level in features.levels]
    semantic = None if features.semantic_logits is None else features.semantic_logits.float()
    return Features(levels, features.mask_feats.float(), semantic)
