"""How a training run starts: from the recipe's initial weights, from a trained model, or from a checkpoint."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from condinst_deploy.contract import Family, ModelManifest
from condinst_deploy.errors import CheckpointError, ConfigError
from condinst_deploy.model.checkpoints import LoadedModel, check_fitting, load_model
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.published_checkpoints import resnet_weights
from condinst_deploy.model.safe_load import load_checkpoint_file
from condinst_deploy.shown_text import counted, quoted_if_odd, shown_value
from condinst_deploy.support.input_files import real_path
from condinst_deploy.support.validation import Limits, check_number, typed
from condinst_deploy.training.data_record import record_from_dict
from condinst_deploy.training.imagenet import TORCHVISION, torchvision_resnet
from condinst_deploy.training.loss_module import layout_of
from condinst_deploy.training.optimizer_state import load_optimizer_state
from condinst_deploy.training.optimizers import optimizer_of
from condinst_deploy.training.ranks import ALONE, Ranks
from condinst_deploy.training.recipe import Recipe, StartSettings, recipe_from_dict
from condinst_deploy.training.run import TrainingRun
from condinst_deploy.training.train_options import PLACES

RESNETS: dict[Family, str] = {
    "mmdet": "a ResNet in torchvision's names",
    "adelaidet": "MSRA's ResNet in detectron2's names",
}
"""Pretrained backbone that a family's models start from."""

MAY_CHANGE = (
    *("execution", "log_every", "checkpoint_every", "keep_checkpoints", "tensorboard"),
    *("data.workers", "data.prefetch"),
)
"""Settings of a recipe that a resumed run may have otherwise: none of them changes what is learnt from what."""

MOST_CHANGES = 5
"""Settings that a message lists."""

FIXED_LENGTH = (
    "the length cannot change: a decay other than steps, and late_iterations, depend on it, so that the iterations that"
    " are done would have been others"
)


SHORT_WARM_UP = (
    "the warm-up was shortened to fit into the run, and a longer run would have a longer one, so that the iterations"
    " that are done would have been others"
)


def check_start(start: StartSettings) -> None:
    """Check that what a run without trained weights freezes is not random.

    Raises:
        ConfigError: parts of the backbone are frozen, and no trained ResNet is named.
    """
    frozen = {"frozen_stages": (str(start.frozen_stages), "0")} if start.frozen_stages else {}
    frozen |= {} if start.norm_affine else {"norm_affine": ("false", "true")}
    if frozen and not start.backbone:
        now = " and ".join(f"start.{name} = {value}" for name, (value, _) in frozen.items())
        free = " and ".join(f"start.{name} = {value}" for name, (_, value) in frozen.items())
        raise ConfigError(
            f"the recipe freezes parts of the backbone ({now}), which would stay random: name a trained ResNet with"
            f" --backbone or a model with --weights; to train from scratch, set {free} in the recipe"
        )


def new_run(recipe: Recipe, manifest: ModelManifest, device: torch.device, ranks: Ranks = ALONE) -> TrainingRun:
    """A run from the recipe's initial weights.

    Raises:
        CheckpointError: the file of the backbone cannot be loaded.
        ConfigError: it is the other family's, cannot be fetched, or there is none for what the recipe freezes.
    """
    check_start(recipe.start)
    torch.manual_seed(recipe.seed)
    model = CondInst(recipe.model)
    _start(model, recipe.start)
    if recipe.start.backbone:
        named = recipe.start.backbone
        _load_backbone(model, torchvision_resnet(recipe.model.depth) if named == TORCHVISION else Path(named))
    return _run(recipe, model, manifest, device, ranks)


def fine_tuning_run(
    recipe: Recipe,
    manifest: ModelManifest,
    weights: Path,
    device: torch.device,
    ranks: Ranks = ALONE,
    loaded: LoadedModel | None = None,
) -> TrainingRun:
    """A run from a trained model; a class layer of another size is initialised again.

    Where the recipe was written for the other family, losses and norms follow the checkpoint (`Recipe.with_model`).

    Args:
        recipe: the run's recipe.
        manifest: of the data set.
        weights: the checkpoint.
        device: of this process.
        ranks: this process among those that train together.
        loaded: the checkpoint's model, if it was loaded already.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
    """
    loaded = load_model(weights) if loaded is None else loaded
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
        classes = counted(config.num_classes, "class")
        note = f"fine-tuning {weights} ({loaded.note}); the class layer is initialised for {classes}"
    elif loaded.manifest.class_names != manifest.class_names:
        note += (
            f", also for classes of other names ({', '.join(map(quoted_if_odd, loaded.manifest.class_names[:3]))}, ...)"
        )
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
    loaded: LoadedModel | None = None,
) -> TrainingRun:
    """Go on where a checkpoint of the same recipe stopped, on any number of processes.

    Args:
        recipe: the run's recipe.
        path: the checkpoint.
        device: of this process.
        ranks: this process among those that train together.
        content: of the file, if it was read already.
        loaded: its model, if it was built already.

    Raises:
        CheckpointError: the file is no training checkpoint.
        ConfigError: it was made with another recipe. Another length is none where `can_change_length`, and other places
            of the data are none where the checkpoint records what its data was (`data_record.compared`).
    """
    content = load_checkpoint_file(path) if content is None else content
    training = content.get("training")
    if not isinstance(training, dict):
        raise CheckpointError(f"{path} is not a training checkpoint; expected last.pth of a run")
    loaded = load_model(path, content=content) if loaded is None else loaded
    recipe = recipe.with_model(loaded.model.config)
    done = training.get("iteration")
    then = _trained_with(path, training)
    if training.get("data") is not None:  # data is compared by its record: it may have moved
        then = replace(then, data=replace(then.data, **{name: getattr(recipe.data, name) for name in PLACES}))
    _check_same(path, recipe, then, done if isinstance(done, int) else 0)
    run = _run(recipe, loaded.model, loaded.manifest, device, ranks)
    try:
        if run.average is not None:
            own = run.model.state_dict()
            check_fitting(path, own, training["weights"], {})
            run.model.load_state_dict(training["weights"])
        if run.scale is not None and "scale" in training:
            run.scale.load_state_dict(training["scale"])
        if isinstance(run.optimizer, torch.optim.Optimizer):
            load_optimizer_state(run.optimizer, training["optimizer"])
        else:
            run.optimizer.load_state_dict(training["optimizer"])
        run.data = record_from_dict(training.get("data"))
        run.iteration = typed(training["iteration"], int, "iteration")
        check_number("iteration", run.iteration, Limits(0, recipe.schedule.iterations, whole=True))
    except (ConfigError, KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError) as e:
        raise CheckpointError(f"{path} has a state of the training that cannot be used ({e}); start a new run") from e
    return run


def _check_same(path: Path, recipe: Recipe, then: Recipe, done: int) -> None:
    """Refuse a recipe that would go on differently; only the length may change where all else stays what it was."""
    is_shortened = recipe.schedule.iterations > then.schedule.iterations == then.schedule.warmup_iterations + 1
    if can_change_length(recipe) and can_change_length(then):
        if recipe.schedule.iterations < done <= then.schedule.iterations:
            raise ConfigError(
                f"{path} has done {done} iterations, and the run is to have {recipe.schedule.iterations};"
                f" expected at least {done} in --iterations or schedule.iterations"
            )
        then = replace(then, schedule=replace(then.schedule, iterations=recipe.schedule.iterations))
    changed = _changes(then, recipe)
    if changed:
        more = f"; and {len(changed) - MOST_CHANGES} more" if len(changed) > MOST_CHANGES else ""
        listed = "; ".join(changed[:MOST_CHANGES]) + more
        why = ""
        if recipe.schedule.iterations != then.schedule.iterations:
            why = f" {FIXED_LENGTH};"
        elif is_shortened and recipe.schedule.warmup_iterations > then.schedule.warmup_iterations:
            why = f" {SHORT_WARM_UP};"
        raise ConfigError(
            f"{path} was made with another recipe (it differs in {listed});{why}"
            " resume with the same one, or start a new run in another folder, with its weights by --weights"
        )


def can_change_length(recipe: Recipe) -> bool:
    """Return whether a run of another length has the same iterations as far as both go: rates and sizes of images."""
    return recipe.schedule.decay == "steps" and not recipe.late_iterations


def _changes(then: Recipe, now: Recipe) -> list[str]:
    """The settings that differ and decide what is learnt: `name: value then, value now`."""
    before, after = (dict(_settings(recipe.to_dict())) for recipe in (then, now))
    return [
        f"{name}: {shown_value(before.get(name))} then, {shown_value(value)} now"
        for name, value in after.items()
        if name not in MAY_CHANGE and name.split(".")[0] not in MAY_CHANGE and not _same(name, before.get(name), value)
    ]


def _settings(table: dict[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{place}{name}.")
        else:
            yield f"{place}{name}", value


def _same(name: str, before: Any, after: Any) -> bool:
    """Return whether two values of a setting mean the same; a path may be written in several ways."""
    if before == after:
        return True
    if name.removeprefix("data.") not in PLACES or not before or not after:
        return False
    try:
        return real_path(before) == real_path(after)
    except ValueError:  # no file can have the name; a checkpoint may hold any text
        return False


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
    """Norms of backbone and neck that learn their statistics see the images of all processes.

    Those of the mask branch see their own process's, as in both references: AdelaiDet's BiFPN has SyncBN, its mask
    branch BN.

    Raises:
        ConfigError: the device is a CPU.
    """
    if device.type != "cuda":
        raise ConfigError(
            f"execution.sync_norms is true and the device is {device}; PyTorch synchronises norms on GPUs alone:"
            " set it to false, or train in one process"
        )
    convert: Callable[[nn.Module], Any] = nn.SyncBatchNorm.convert_sync_batchnorm
    model.fpn = convert(model.fpn)
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
