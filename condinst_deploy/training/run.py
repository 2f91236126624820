"""The state of a training run, one step of it, and its checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from condinst_deploy.contract import Family, ModelManifest
from condinst_deploy.data.transforms import TrainingBatch
from condinst_deploy.errors import CheckpointError, ConfigError
from condinst_deploy.model.checkpoints import load_model, own_content, write_checkpoint
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.losses import Losses, condinst_losses
from condinst_deploy.model.published_checkpoints import resnet_weights
from condinst_deploy.model.safe_load import load_checkpoint_file
from condinst_deploy.support.validation import typed
from condinst_deploy.training.optimizers import Optimizer, optimizer_of
from condinst_deploy.training.recipe import Recipe, StartSettings, recipe_from_dict

RESNETS: dict[Family, str] = {
    "mmdet": "a ResNet in torchvision's names",
    "adelaidet": "MSRA's ResNet in detectron2's names",
}
"""What a family's models begin with."""


@dataclass
class TrainingRun:
    """A model that learns; everything that a checkpoint has to keep is here."""

    recipe: Recipe
    model: CondInst
    manifest: ModelManifest
    optimizer: Optimizer
    device: torch.device
    iteration: int = 0  # steps done
    note: str = ""  # one sentence on where the weights began

    def step(self, batch: TrainingBatch) -> Losses:
        """One step; returns the losses before it.

        Raises:
            ConfigError: the losses are not finite.
        """
        recipe = self.recipe
        rate = recipe.learning_rate(self.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        self.model.train()
        losses = self._losses(batch)
        total = losses.total
        if not total.isfinite():
            raise ConfigError(
                f"the losses of iteration {self.iteration} are not finite ({_shown(losses)});"
                " lower optimizer.learning_rate or set optimizer.clip_norm"
            )
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        if recipe.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), recipe.optimizer.clip_norm)
        self.optimizer.step()
        self.iteration += 1
        return Losses(**{name: loss.detach() for name, loss in losses.terms.items()})

    def _losses(self, batch: TrainingBatch) -> Losses:
        images = self.model.normalize(batch.images.to(self.device), batch.image_sizes.to(self.device))
        features = self.model.features(images.contiguous(memory_format=_layout(self.model)))
        return condinst_losses(
            features,
            [target.to(self.device) for target in batch.targets],
            self.recipe.losses,
            hidden=self.model.config.dynamic_channels,
            permutation=self._permutation(),
        )

    def _permutation(self) -> Callable[[int], Tensor]:
        """Random orders decided by seed and iteration, so that nothing random has to be kept."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.iteration)
        return lambda n: torch.randperm(n, generator=generator)

    def save(self, path: Path) -> None:
        """Write a checkpoint that both `resumed` and `load_model` read."""
        content = own_content(self.model, self.manifest)
        content["training"] = {
            "iteration": self.iteration,
            "recipe": self.recipe.to_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_checkpoint(path, content)


def new_run(recipe: Recipe, manifest: ModelManifest, device: torch.device) -> TrainingRun:
    """A run from the recipe's initial weights.

    Raises:
        CheckpointError: the file of the backbone cannot be loaded.
        ConfigError: it is the other family's, or there is none for what the recipe freezes.
    """
    start = recipe.start
    if not start.backbone and (start.frozen_stages or not start.norm_affine):
        raise ConfigError(
            f"the recipe freezes parts of the backbone (start.frozen_stages = {start.frozen_stages}, norm_affine ="
            f" {str(start.norm_affine).lower()}), which would stay random: name a trained ResNet with --backbone or a"
            " model with --weights, or set frozen_stages = 0 and norm_affine = true to train from scratch"
        )
    torch.manual_seed(recipe.seed)
    model = CondInst(recipe.model)
    _start(model, recipe.start)
    if recipe.start.backbone:
        _load_backbone(model, Path(recipe.start.backbone))
    return _run(recipe, model, manifest, device)


def fine_tuning_run(recipe: Recipe, manifest: ModelManifest, weights: Path, device: torch.device) -> TrainingRun:
    """A run from a trained model; a class layer of another size begins anew.

    Where the recipe was written for the other family, losses and norms follow the checkpoint (`Recipe.with_model`).

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
    """
    loaded = load_model(weights)
    torch.manual_seed(recipe.seed)
    # the sizes are the recipe's; mean, std and rules go with the weights
    sizes = {name: getattr(recipe.model.preprocessing, name) for name in ("short_side", "long_side", "pad_divisor")}
    preprocessing = replace(loaded.model.config.preprocessing, **sizes)
    config = replace(loaded.model.config, num_classes=len(manifest.class_names), preprocessing=preprocessing)
    manifest = replace(manifest, family=config.family, preprocessing=preprocessing, selection=config.selection)
    model = CondInst(config)
    state = loaded.model.state_dict()
    note = f"fine-tuning {weights} ({loaded.note}), all weights kept"
    if config.num_classes != loaded.model.config.num_classes:
        classifiers = ("head.cls_logits.", "mask_branch.semantic.2.")
        state = {key: value for key, value in state.items() if not key.startswith(classifiers)}
        note = f"fine-tuning {weights} ({loaded.note}); the class layer begins anew for {config.num_classes} classes"
    elif loaded.manifest.class_names != manifest.class_names:
        note += f", also for classes of other names ({' '.join(loaded.manifest.class_names[:3])} ...)"
    model.load_state_dict(state, strict=False)
    if recipe.model.family != config.family:
        note += f"; the recipe is of the family {recipe.model.family}: losses and norms follow the checkpoint's"
    run = _run(recipe.with_model(config), model, manifest, device)
    run.note = note
    return run


def resumed_run(recipe: Recipe, path: Path, device: torch.device) -> TrainingRun:
    """Go on where a checkpoint of the same recipe stopped.

    Raises:
        CheckpointError: the file is no training checkpoint.
        ConfigError: it was made with another recipe.
    """
    training = load_checkpoint_file(path).get("training")
    if not isinstance(training, dict):
        raise CheckpointError(f"{path} is not a training checkpoint; expected last.pth of a run")
    loaded = load_model(path)
    recipe = recipe.with_model(loaded.model.config)
    then = _trained_with(path, training)
    changed = [each.name for each in fields(recipe) if getattr(recipe, each.name) != getattr(then, each.name)]
    if changed:
        raise ConfigError(
            f"{path} was made with another recipe (it differs in {', '.join(changed)});"
            " resume with the same one, or start anew in another folder"
        )
    run = _run(recipe, loaded.model, loaded.manifest, device)
    try:
        run.optimizer.load_state_dict(training["optimizer"])
        run.iteration = typed(training["iteration"], int, "iteration")
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
        raise CheckpointError(f"{path} has an optimizer's state that cannot be used ({e}); start anew") from e
    return run


def _trained_with(path: Path, training: dict[str, Any]) -> Recipe:
    """The recipe that a checkpoint was made with; settings that are newer than it have their defaults."""
    try:
        return recipe_from_dict(training.get("recipe"))
    except ConfigError as e:
        raise CheckpointError(f"{path} was made with a recipe that this release cannot use: {e}") from e


def _run(recipe: Recipe, model: CondInst, manifest: ModelManifest, device: torch.device) -> TrainingRun:
    model = model.to(device=device, memory_format=_layout(model))  # type: ignore[call-overload]
    model.backbone.freeze(recipe.start.frozen_stages, recipe.start.norm_eval, recipe.start.norm_affine)
    return TrainingRun(recipe, model, manifest, optimizer_of(model, recipe.optimizer), device)


def _layout(model: CondInst) -> torch.memory_format:
    """Channels last: two thirds of the time of a step on a CPU.

    Not for narrow models: oneDNN's backward pass of a strided 1x1 convolution of 8 channels writes out of bounds
    in that layout (torch 2.14.0; from 16 channels on it does not).
    """
    return torch.channels_last if model.config.base_width >= 16 else torch.contiguous_format


def _start(model: CondInst, settings: StartSettings) -> None:
    nn.init.normal_(model.head.controller.weight, std=settings.controller_std)
    assert model.head.box_pred.bias is not None
    nn.init.constant_(model.head.box_pred.bias, settings.box_bias)
    if settings.zero_residual:
        for block in model.backbone.modules():
            if isinstance(block, BasicBlock | Bottleneck):
                last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
                nn.init.zeros_(last.weight)


def _load_backbone(model: CondInst, path: Path) -> None:
    """Weights of torchvision's ResNet, or of detectron2's as its checkpoints hold it: they fit each other in shape."""
    found, wanted = resnet_weights(path, load_checkpoint_file(path)), model.config.family
    if found.family != wanted:
        raise ConfigError(
            f"{path} holds {RESNETS[found.family]}; the recipe's model is of the family {wanted}, which begins with"
            f" {RESNETS[wanted]}: name such a file with --backbone (docs/training.md)"
        )
    # a frozen norm counts no steps, so that detectron2's files lack the counters
    counters = {key: value for key, value in model.backbone.state_dict().items() if key.endswith("_batches_tracked")}
    try:
        model.backbone.load_state_dict(counters | found.state)
    except RuntimeError as e:
        raise CheckpointError(f"{path} is not a state dict of the recipe's ResNet: {e}") from e


def _shown(losses: Losses) -> str:
    return ", ".join(f"{name} {value.item():.3g}" for name, value in losses.terms.items())
