"""The state of a training run, one step of it, and its checkpoints."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models.resnet import BasicBlock, Bottleneck

from condinst_deploy.contract import Family, ModelManifest
from condinst_deploy.data.transforms import TrainingBatch
from condinst_deploy.errors import CheckpointError, ConfigError
from condinst_deploy.model.boxinst import similar_neighbours
from condinst_deploy.model.checkpoints import check_fitting, load_model, own_content, write_checkpoint
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.loss_plan import Draw, Normalisers, Part, Plan, normalisers_of, plan_step, sums_of
from condinst_deploy.model.losses import Losses
from condinst_deploy.model.published_checkpoints import resnet_weights
from condinst_deploy.model.safe_load import load_checkpoint_file
from condinst_deploy.support.validation import typed
from condinst_deploy.training.averaging import WeightAverage
from condinst_deploy.training.imagenet import TORCHVISION, torchvision_resnet
from condinst_deploy.training.loss_module import LossModule, layout_of
from condinst_deploy.training.loss_scale import LossScale
from condinst_deploy.training.optimizers import Optimizer, optimizer_of
from condinst_deploy.training.ranks import ALONE, Ranks
from condinst_deploy.training.recipe import Recipe, StartSettings, recipe_from_dict

RESNETS: dict[Family, str] = {
    "mmdet": "a ResNet in torchvision's names",
    "adelaidet": "MSRA's ResNet in detectron2's names",
}
"""Pretrained backbone that a family's models start from."""


MASK_DRAWS = 1
"""Keeps the random numbers that choose masks apart from those that transform the image of the same position."""

MAY_CHANGE = ("execution", "log_every", "checkpoint_every", "keep_checkpoints", "tensorboard")
"""Settings of a recipe that a resumed run may have otherwise: none of them changes what is learnt from what."""

LOADING = ("workers", "prefetch")
"""Settings of `data` that may change, too."""


@dataclass
class TrainingRun:
    """A model that learns; everything that a checkpoint has to keep is here."""

    recipe: Recipe
    model: CondInst
    manifest: ModelManifest
    optimizer: Optimizer
    device: torch.device
    ranks: Ranks = ALONE
    iteration: int = 0  # steps done
    note: str = ""  # one sentence on where the weights began
    average: WeightAverage | None = None
    scale: LossScale | None = None
    losses: LossModule = field(init=False)
    _wrapped: nn.Module | None = field(init=False, default=None)
    _before: list[Tensor] = field(init=False, default_factory=list)  # statistics of norms before the step

    def __post_init__(self) -> None:
        """Make the parts that follow from the others."""
        self.losses = LossModule(self.model, self.recipe)
        if self.recipe.execution.precision == "float16" and self.scale is None:
            self.scale = LossScale()
        if self.recipe.optimizer.average_decay > 0 and self.average is None:
            self.average = WeightAverage(self.model, self.recipe.optimizer.average_decay)

    @property
    def evaluated(self) -> CondInst:
        """The model that is evaluated and exported: the average where there is one."""
        return self.model if self.average is None else self.average.model

    def step(self, *parts: TrainingBatch) -> Losses:
        """One step on this process's share of a batch, in one or several parts; returns the losses before it.

        The losses are those of the whole batch of all processes.

        Raises:
            ConfigError: the losses are not finite.
            DistributedError: another process is lost. The run can be saved after `undo`.
        """
        self._set_rate()
        self.model.train()
        self._before = [x.clone() for x in self._statistics()]
        on_device = [part.to(self.device) for part in parts]
        plans, normalisers = self._planned(on_device)
        self.optimizer.zero_grad(set_to_none=True)
        sums: list[Tensor] = []
        with self.ranks.together():
            for i, (part, plan) in enumerate(zip(on_device, plans, strict=True)):
                with self._exchange(last=i + 1 == len(parts)):
                    terms = self._module()(part, plan, normalisers)
                    (torch.stack(list(terms.values())).sum() * self._factor()).backward()
                sums.append(torch.stack([value.detach() for value in terms.values()]))
        values = self.ranks.average(torch.stack(sums).sum(dim=0).to("cpu", torch.float64))
        losses = Losses(**dict(zip(terms, values, strict=True)))
        self._check_finite(losses, parts)
        self._update()
        self.iteration += 1
        self._before = []
        return losses

    def undo(self) -> None:
        """Forget a step that did not end: statistics of norms are those before it, weights have not changed yet."""
        with torch.no_grad():
            for own, before in zip(self._statistics(), self._before, strict=False):
                own.copy_(before)

    def average_statistics(self) -> None:
        """Give all processes the means of their norms' statistics, which each learns from its own images.

        Raises:
            DistributedError: another process is lost.
        """
        own = self._statistics()
        if self.ranks.size > 1 and own:
            means = self.ranks.average(torch.cat([x.flatten() for x in own]))
            with torch.no_grad():
                for x, mean in zip(own, means.split([x.numel() for x in own]), strict=True):
                    x.copy_(mean.reshape(x.shape))
            if self.average is not None:
                self.average.copy_statistics(self.model)

    def save(self, path: Path) -> None:
        """Write a checkpoint that both `resumed_run` and `load_model` read; `load_model` gets the average."""
        content = own_content(self.evaluated, self.manifest)
        content["training"] = {
            "iteration": self.iteration,
            "recipe": self.recipe.to_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        if self.scale is not None:
            content["training"]["scale"] = self.scale.state_dict()
        if self.average is not None:
            content["training"]["weights"] = own_content(self.model, self.manifest)["state_dict"]
        write_checkpoint(path, content)

    def _set_rate(self) -> None:
        rate = self.recipe.learning_rate(self.iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)

    def _statistics(self) -> list[Tensor]:
        """Running means and variances of the norms that learn them."""
        return [
            statistic
            for module in self.model.modules()
            if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm) and module.training
            for statistic in (module.running_mean, module.running_var)
            if statistic is not None
        ]

    def _planned(self, parts: Sequence[TrainingBatch]) -> tuple[list[Plan], Normalisers]:
        """Return the plan of each part, and the divisors of the whole step."""
        settings = self.recipe.losses
        colours = settings.colours
        learnt = [
            Part(
                part.targets,
                (part.images.shape[2], part.images.shape[3]),
                None if colours is None else similar_neighbours(part.images, part.image_sizes, colours),
            )
            for part in parts
        ]
        plans = plan_step(learnt, settings, self._draw(parts), self.iteration)
        sums = torch.stack([sums_of(plan, part, settings) for plan, part in zip(plans, learnt, strict=True)])
        return plans, normalisers_of(sums.sum(dim=0), settings, self.ranks.average)

    def _draw(self, parts: Sequence[TrainingBatch]) -> Draw:
        """Random numbers decided by seed and an image's position, so that nothing random has to be kept."""
        positions = [source.position for part in parts for source in part.sources]

        def draw(image: int, n: int) -> Tensor:
            seed = (self.recipe.seed, positions[image], MASK_DRAWS)
            return torch.from_numpy(np.random.default_rng(seed).random(n))

        return draw

    def _module(self) -> nn.Module:
        """The losses' module; where several processes train together, the one that averages gradients."""
        if self.ranks.size == 1:
            return self.losses
        if self._wrapped is None:
            # each process keeps its norms' statistics until they are averaged
            known = signature(DistributedDataParallel).parameters
            name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # before 2.13
            own_statistics: dict[str, Any] = {name: False}
            self._wrapped = DistributedDataParallel(self.losses, **own_statistics)
        return self._wrapped

    def _exchange(self, last: bool) -> AbstractContextManager[None]:
        """Gradients of all but the last part stay in this process."""
        module = self._module()
        return nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync()

    def _factor(self) -> float:
        return 1.0 if self.scale is None else self.scale.factor

    def _check_finite(self, losses: Losses, parts: Sequence[TrainingBatch]) -> None:
        """The losses of all processes together are finite or not, so that all stop or none."""
        if losses.total.isfinite():
            return
        self.undo()
        names = [source.name for part in parts for source in part.sources]
        seen = [name for own in self.ranks.gathered(names) for name in own]
        raise ConfigError(
            f"the losses of iteration {self.iteration} are not finite ({_shown(losses)}); its images are"
            f" {', '.join(seen) or 'not named'}; look at them, lower optimizer.learning_rate or set"
            " optimizer.clip_norm"
        )

    def _update(self) -> None:
        """Change the weights, unless gradients of scaled losses overflowed."""
        parameters = list(self.model.parameters())
        if self.scale is not None:
            finite = self.scale.unscale(parameters)
            self.scale.update(finite)
            if not finite:
                return
        if self.recipe.optimizer.clip_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.recipe.optimizer.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, self.iteration + 1)


def new_run(recipe: Recipe, manifest: ModelManifest, device: torch.device, ranks: Ranks = ALONE) -> TrainingRun:
    """A run from the recipe's initial weights.

    Raises:
        CheckpointError: the file of the backbone cannot be loaded.
        ConfigError: it is the other family's, cannot be fetched, or there is none for what the recipe freezes.
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
        named = recipe.start.backbone
        _load_backbone(model, torchvision_resnet(recipe.model.depth) if named == TORCHVISION else Path(named))
    return _run(recipe, model, manifest, device, ranks)


def fine_tuning_run(
    recipe: Recipe, manifest: ModelManifest, weights: Path, device: torch.device, ranks: Ranks = ALONE
) -> TrainingRun:
    """A run from a trained model; a class layer of another size is initialised again.

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
        note = f"fine-tuning {weights} ({loaded.note}); the class layer is initialised for {config.num_classes} classes"
    elif loaded.manifest.class_names != manifest.class_names:
        note += f", also for classes of other names ({' '.join(loaded.manifest.class_names[:3])} ...)"
    model.load_state_dict(state, strict=False)
    if recipe.model.family != config.family:
        note += f"; the recipe is of the family {recipe.model.family}: losses and norms follow the checkpoint's"
    run = _run(recipe.with_model(config), model, manifest, device, ranks)
    run.note = note
    return run


def resumed_run(
    recipe: Recipe,
    path: Path,
    device: torch.device,
    ranks: Ranks = ALONE,
    content: dict[str, Any] | None = None,
) -> TrainingRun:
    """Go on where a checkpoint of the same recipe stopped, on any number of processes.

    Args:
        recipe: the run's recipe.
        path: the checkpoint.
        device: of this process.
        ranks: this process among those that train together.
        content: of the file, if it was read already.

    Raises:
        CheckpointError: the file is no training checkpoint.
        ConfigError: it was made with another recipe.
    """
    content = load_checkpoint_file(path) if content is None else content
    training = content.get("training")
    if not isinstance(training, dict):
        raise CheckpointError(f"{path} is not a training checkpoint; expected last.pth of a run")
    loaded = load_model(path, content=content)
    recipe = recipe.with_model(loaded.model.config)
    _check_same(path, recipe, _trained_with(path, training))
    run = _run(recipe, loaded.model, loaded.manifest, device, ranks)
    try:
        if run.average is not None:
            run.model.load_state_dict(training["weights"])
        if run.scale is not None and "scale" in training:
            run.scale.load_state_dict(training["scale"])
        run.optimizer.load_state_dict(training["optimizer"])
        run.iteration = typed(training["iteration"], int, "iteration")
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as e:
        raise CheckpointError(f"{path} has an optimizer's state that cannot be used ({e}); start a new run") from e
    return run


def _check_same(path: Path, recipe: Recipe, then: Recipe) -> None:
    """Refuse a recipe that would go on differently."""
    same_loading = {name: getattr(recipe.data, name) for name in LOADING}
    then = replace(then, data=replace(then.data, **same_loading))
    compared = [each.name for each in fields(recipe) if each.name not in MAY_CHANGE]
    changed = [name for name in compared if getattr(recipe, name) != getattr(then, name)]
    if changed:
        raise ConfigError(
            f"{path} was made with another recipe (it differs in {', '.join(changed)});"
            " resume with the same one, or start a new run in another folder"
        )


def _trained_with(path: Path, training: dict[str, Any]) -> Recipe:
    """The recipe that a checkpoint was made with; settings that are newer than it have their defaults."""
    try:
        return recipe_from_dict(training.get("recipe"))
    except ConfigError as e:
        raise CheckpointError(f"{path} was made with a recipe that this release cannot use: {e}") from e


def _run(recipe: Recipe, model: CondInst, manifest: ModelManifest, device: torch.device, ranks: Ranks) -> TrainingRun:
    if recipe.execution.compile and device.type == "cpu":
        raise ConfigError(
            "execution.compile is true and the device is cpu; PyTorch's compiled backward pass of a replicated border"
            " fails on CPUs (docs/training.md): set it to false"
        )
    if recipe.execution.sync_norms and ranks.size > 1:
        model = _with_synchronised_norms(model, recipe, device)
    model = model.to(device=device, memory_format=layout_of(model, recipe))  # type: ignore[call-overload]
    model.backbone.freeze(recipe.start.frozen_stages, recipe.start.norm_eval, recipe.start.norm_affine)
    return TrainingRun(recipe, model, manifest, optimizer_of(model, recipe.optimizer), device, ranks)


def _with_synchronised_norms(model: CondInst, recipe: Recipe, device: torch.device) -> CondInst:
    """Norms that learn their statistics see the images of all processes.

    Raises:
        ConfigError: the device is a CPU.
    """
    if device.type != "cuda":
        raise ConfigError(
            f"execution.sync_norms is true and the device is {device}; PyTorch synchronises norms on GPUs alone:"
            " set it to false, or train in one process"
        )
    convert: Callable[[nn.Module], Any] = nn.SyncBatchNorm.convert_sync_batchnorm
    model.fpn, model.mask_branch = convert(model.fpn), convert(model.mask_branch)
    if not recipe.start.norm_eval and recipe.start.norm_affine:
        model.backbone = convert(model.backbone)
    return model


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
    expected = model.backbone.state_dict()
    unmapped = [f"unmapped: {key}" for key in found.state if key not in expected]
    check_fitting(path, expected, found.state, {}, unmapped)
    # a frozen norm counts no steps, so that detectron2's files lack the counters
    model.backbone.load_state_dict(found.state, strict=False)


def _shown(losses: Losses) -> str:
    return ", ".join(f"{name} {value.item():.3g}" for name, value in losses.terms.items())
