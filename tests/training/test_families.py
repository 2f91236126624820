"""Every kind of AdelaiDet's models trains: plain, with the semantic loss, with BiFPN."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from condinst_deploy.contract import Preprocessing
from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.errors import CheckpointError, ConfigError
from condinst_deploy.model.checkpoints import load_model, save_model
from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.model.losses import Losses, LossSettings
from condinst_deploy.training.batches import batches
from condinst_deploy.training.history import read_history
from condinst_deploy.training.optimizers import optimizer_of
from condinst_deploy.training.recipe import DataSettings, Recipe, ScheduleSettings, StartSettings, load_recipe
from condinst_deploy.training.run import TrainingRun
from condinst_deploy.training.run_start import fine_tuning_run, new_run, resumed_run
from condinst_deploy.training.trainer import Reports, Sets, manifest_for, open_sets, train
from tests.support.models import TINY, TINY_ADELAIDET, manifest_of, mmdet_state, seeded_model

CPU = torch.device("cpu")
KINDS = {
    "plain": TINY_ADELAIDET,
    "sem": replace(TINY_ADELAIDET, semantic_head=True),
    "BiFPN": replace(TINY_ADELAIDET, neck="bifpn"),
    "BiFPN sem": replace(TINY_ADELAIDET, neck="bifpn", semantic_head=True),
}

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """AdelaiDet's published recipe, on a few small images."""
    folder = tmp_path_factory.mktemp("shapes")
    annotations = generate_shapes(folder, "train", 4)
    data = DataSettings(str(annotations), str(folder / "train"), str(annotations), str(folder / "train"), workers=0)
    torch.save(detectron2_resnet(TINY_ADELAIDET, ""), folder / "resnet.pth")
    published = load_recipe("adelaidet_r50_1x")
    schedule = replace(published.schedule, iterations=2, batch_size=2, warmup_iterations=0)
    start = replace(published.start, backbone=str(folder / "resnet.pth"))
    return replace(
        published, model=TINY_ADELAIDET, data=data, schedule=schedule, start=start, short_sides=(96,), log_every=1
    )


@pytest.fixture(scope="module")
def sets(recipe: Recipe) -> Sets:
    return open_sets(recipe)


def quiet() -> Reports:
    return Reports(lambda iteration, losses: None, lambda done, of: None, lambda record: None)


def first_step(recipe: Recipe, sets: Sets) -> tuple[TrainingRun, Losses]:
    run = new_run(recipe, manifest_for(recipe, sets), CPU)
    return run, run.step(next(batches(sets.train, recipe, 0)))


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_moves_what_learns_and_nothing_else(kind: str, recipe: Recipe, sets: Sets) -> None:
    recipe = replace(recipe, model=KINDS[kind])
    before = new_run(recipe, manifest_for(recipe, sets), CPU).model.state_dict()
    run, losses = first_step(recipe, sets)
    assert all(loss.isfinite() and loss > 0 for loss in losses.terms.values())
    assert ("semantic" in losses.terms) == KINDS[kind].semantic_head
    changed = {key for key, value in run.model.state_dict().items() if not torch.equal(value, before[key])}
    parameters = dict(run.model.named_parameters())
    learns = {name for name, parameter in parameters.items() if parameter.requires_grad}
    assert all((parameter.grad is not None) == (name in learns) for name, parameter in parameters.items())
    statistics = {key for key in changed if "running_" in key or key.endswith("num_batches_tracked")}
    assert changed - statistics <= learns
    assert {key.split(".")[0] for key in changed - statistics} == {"backbone", "fpn", "head", "mask_branch"}
    # the backbone's norms keep scale, shift and statistics
    assert not [key for key in changed if key.startswith("backbone.") and ("bn" in key or "downsample.1" in key)]
    assert {key.split(".")[0] for key in statistics} == {"mask_branch", *(["fpn"] if "BiFPN" in kind else [])}


def test_a_run_ends_with_a_model_of_its_kind(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    recipe = replace(recipe, model=KINDS["BiFPN sem"])
    train(new_run(recipe, manifest_for(recipe, sets), CPU), sets, tmp_path, quiet())
    loaded = load_model(tmp_path / "model.pth", "adelaidet")
    assert loaded.model.config == KINDS["BiFPN sem"]
    assert all("loss/semantic" in record for record in read_history(tmp_path / "history.jsonl")[:2])
    assert (tmp_path / "curves.png").stat().st_size > 0
    run = resumed_run(recipe, tmp_path / "last.pth", CPU)
    assert (run.iteration, run.manifest.family) == (2, "adelaidet")


def test_norms_are_spared_the_decay_and_biases_are_not(recipe: Recipe) -> None:
    model = seeded_model(KINDS["BiFPN sem"])
    decayed, spared = (group["params"] for group in optimizer_of(model, recipe.optimizer).param_groups)
    norms = [
        parameter
        for module in model.modules()
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.GroupNorm)
        for parameter in module.parameters()
    ]
    assert {id(p) for p in spared} == {id(p) for p in norms}
    assert len(decayed) + len(spared) == len(list(model.parameters()))
    assert any(parameter is model.head.controller.bias for parameter in decayed)


def test_fine_tuning_keeps_the_rules_of_the_checkpoint(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    config = KINDS["sem"]
    save_model(tmp_path / "model.pth", seeded_model(config), manifest_of(config))
    mine = Recipe(data=recipe.data, schedule=recipe.schedule, short_sides=(96,))  # says nothing of a family
    mine = replace(mine, model=replace(mine.model, preprocessing=Preprocessing(short_side=64, long_side=96)))
    manifest = replace(manifest_for(mine, sets), class_names=("a", "b"), category_ids=(1, 2))
    run = fine_tuning_run(mine, manifest, tmp_path / "model.pth", CPU)
    preprocessing = replace(config.preprocessing, short_side=64)
    assert run.model.config == replace(config, num_classes=2, preprocessing=preprocessing)
    assert (run.manifest.family, run.manifest.preprocessing) == ("adelaidet", preprocessing)
    source = seeded_model(config).state_dict()
    changed = {key for key, v in run.model.state_dict().items() if v.shape != source[key].shape}
    assert changed == {
        f"{layer}.{name}" for layer in ("head.cls_logits", "mask_branch.semantic.2") for name in ("weight", "bias")
    }
    run.save(tmp_path / "last.pth")
    assert load_model(tmp_path / "last.pth").model.config == run.model.config
    assert resumed_run(mine, tmp_path / "last.pth", CPU).recipe == run.recipe


def test_fine_tuning_learns_as_the_family_of_the_checkpoint_does(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    save_model(tmp_path / "model.pth", seeded_model(TINY_ADELAIDET), manifest_of(TINY_ADELAIDET))
    mine = of_mmdet(recipe)
    run = fine_tuning_run(mine, manifest_for(mine, sets), tmp_path / "model.pth", CPU)
    assert run.recipe.losses == LossSettings(max_masks=500, family="adelaidet")
    assert (run.recipe.start.norm_affine, run.recipe.optimizer.decay_norms) == (False, False)
    assert not any(p.requires_grad for name, p in run.model.backbone.named_parameters() if "bn" in name)
    assert "the recipe is of the family mmdet: losses and norms follow the checkpoint's" in run.note
    assert run.step(next(batches(sets.train, run.recipe, 0))).total.isfinite()
    own = replace(mine, losses=LossSettings(max_masks=20))
    run = fine_tuning_run(own, manifest_for(mine, sets), tmp_path / "model.pth", CPU)
    assert run.recipe.losses == LossSettings(max_masks=20, family="adelaidet")


def test_fine_tuning_with_a_recipe_of_the_checkpoints_family_is_as_the_recipe_says(
    recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    save_model(tmp_path / "model.pth", seeded_model(TINY_ADELAIDET), manifest_of(TINY_ADELAIDET))
    start, optimizer = replace(recipe.start, norm_affine=True), replace(recipe.optimizer, decay_norms=True)
    mine = replace(recipe, start=start, optimizer=optimizer, losses=LossSettings(max_masks=7, family="adelaidet"))
    run = fine_tuning_run(mine, manifest_for(mine, sets), tmp_path / "model.pth", CPU)
    assert run.recipe == replace(mine, model=run.model.config)
    assert "follow the checkpoint" not in run.note


# ---- where the weights begin


def detectron2_resnet(config: CondInstConfig, prefix: str) -> dict[str, Any]:
    """The ResNet of a seeded model, as detectron2 saves it: its own names, BGR, no counters."""
    state = {}
    for key, value in seeded_model(config).backbone.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        name = key.replace("bn1", "conv1.norm").replace("bn2", "conv2.norm").replace("bn3", "conv3.norm")
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        name = f"res{int(name[5]) + 1}{name[6:]}" if name.startswith("layer") else f"stem.{name}"
        state[prefix + name] = value.flip(1) if name == "stem.conv1.weight" else value
    return state


def beginning_with(recipe: Recipe, content: dict[str, Any], folder: Path) -> Recipe:
    """The recipe, beginning with a file of that content."""
    torch.save(content, folder / "resnet.pth")
    return replace(recipe, start=replace(recipe.start, backbone=str(folder / "resnet.pth")))


@pytest.mark.parametrize(
    ("prefix", "others", "entry"),
    [
        ("", {}, None),
        ("module.", {}, None),
        ("backbone.bottom_up.", {"proposal_generator.fcos_head.cls_logits.bias": torch.zeros(3)}, "model"),
        ("backbone.bottom_up.backbone.", {"controller.bias": torch.zeros(169)}, "model"),
        # what bottom_up.state_dict() gives of a BiFPN model
        ("backbone.", {"res6.reduction.weight": torch.zeros(160, 256, 1, 1)}, None),
        ("module.backbone.bottom_up.", {"module.controller.bias": torch.zeros(169)}, "state_dict"),
    ],
)
def test_a_run_begins_with_detectron2s_resnet(
    prefix: str, others: dict[str, Any], entry: str | None, recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    state = detectron2_resnet(TINY_ADELAIDET, prefix) | others
    begun = beginning_with(recipe, state if entry is None else {entry: state}, tmp_path)
    backbone = new_run(begun, manifest_for(begun, sets), CPU).model.backbone
    want = seeded_model(TINY_ADELAIDET).backbone.state_dict()
    assert [key for key, value in backbone.state_dict().items() if not torch.equal(value, want[key])] == []


def test_an_incomplete_resnet_is_an_error(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    state = detectron2_resnet(TINY_ADELAIDET, "")
    del state["res4.0.conv2.weight"]
    begun = beginning_with(recipe, state, tmp_path)
    with pytest.raises(CheckpointError, match=r"layer3\.0\.conv2\.weight"):
        new_run(begun, manifest_for(begun, sets), CPU)


@pytest.mark.parametrize(
    ("value", "problem"),
    [(torch.full((8,), float("nan")), "not finite"), (torch.zeros(3), "mis-shaped"), ("text", "mis-shaped")],
)
def test_a_resnet_that_cannot_be_trained_is_an_error(
    value: object, problem: str, recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    state: dict[str, Any] = dict(detectron2_resnet(TINY_ADELAIDET, ""))
    assert state["stem.conv1.norm.bias"].shape == (8,)
    begun = beginning_with(recipe, state | {"stem.conv1.norm.bias": value}, tmp_path)
    with pytest.raises(CheckpointError, match=f"1 problem: {problem}: bn1.bias"):
        new_run(begun, manifest_for(begun, sets), CPU)


def of_mmdet(recipe: Recipe) -> Recipe:
    """mmdetection's published recipe, on the same data."""
    published = load_recipe("condinst_r50_1x")
    model = replace(
        TINY_ADELAIDET, stride_in_1x1=False, preprocessing=Preprocessing(), selection=published.model.selection
    )
    return replace(published, model=model, data=recipe.data, schedule=recipe.schedule, short_sides=(96,))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_run_begins_with_torchvisions_resnet(prefix: str, recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    mine = of_mmdet(recipe)
    want = seeded_model(mine.model).backbone.state_dict()
    state = {prefix + key: value for key, value in want.items()} | {f"{prefix}fc.bias": torch.zeros(1000)}
    begun = beginning_with(mine, state, tmp_path)
    backbone = new_run(begun, manifest_for(begun, sets), CPU).model.backbone
    assert [key for key, value in backbone.state_dict().items() if not torch.equal(value, want[key])] == []


@pytest.mark.parametrize("names", ["ours", "mmdet"])
def test_a_whole_model_is_no_resnet(names: str, recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    mine = of_mmdet(recipe)
    state = seeded_model(mine.model).state_dict() if names == "ours" else mmdet_state()
    begun = beginning_with(mine, {"state_dict": state}, tmp_path)
    with pytest.raises(CheckpointError, match=r"is a whole model .*; expected a ResNet alone: .* with --weights"):
        new_run(begun, manifest_for(begun, sets), CPU)


def test_a_resnet_of_the_other_family_is_refused_though_it_fits(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    torchvisions = beginning_with(recipe, seeded_model(TINY_ADELAIDET).backbone.state_dict(), tmp_path)
    with pytest.raises(ConfigError, match=r"holds a ResNet in torchvision's names; .* family adelaidet, .* MSRA's"):
        new_run(torchvisions, manifest_for(recipe, sets), CPU)
    mine = of_mmdet(recipe)
    detectron2s = beginning_with(mine, detectron2_resnet(mine.model, ""), tmp_path)
    with pytest.raises(ConfigError, match=r"holds MSRA's ResNet in detectron2's names; .* family mmdet, .*torch"):
        new_run(detectron2s, manifest_for(mine, sets), CPU)


@pytest.mark.parametrize(
    ("start", "now", "free"),
    [
        (StartSettings(), "start.frozen_stages = 2", "start.frozen_stages = 0"),
        (StartSettings(frozen_stages=0, norm_affine=False), "start.norm_affine = false", "start.norm_affine = true"),
        (
            StartSettings(frozen_stages=1, norm_affine=False),
            "start.frozen_stages = 1 and start.norm_affine = false",
            "start.frozen_stages = 0 and start.norm_affine = true",
        ),
    ],
)
def test_what_is_frozen_cannot_begin_at_random(
    start: StartSettings, now: str, free: str, recipe: Recipe, sets: Sets
) -> None:
    """The message asks for what differs, and for nothing that is set already."""
    message = rf"\({now}\), which would stay random: name .*--backbone or .*--weights; .*, set {free} in the recipe$"
    with pytest.raises(ConfigError, match=message):
        new_run(replace(recipe, start=start), manifest_for(recipe, sets), CPU)
    trainable = replace(recipe, start=StartSettings(frozen_stages=0))
    assert new_run(trainable, manifest_for(recipe, sets), CPU).iteration == 0


# ---- checkpoints of before there were families


def test_a_run_begun_before_there_were_families_resumes(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    old = Recipe(
        model=TINY,
        data=recipe.data,
        schedule=ScheduleSettings(iterations=5, batch_size=1, warmup_iterations=1),
        start=StartSettings(frozen_stages=0),
    )
    new_run(old, manifest_for(old, sets), CPU).save(tmp_path / "last.pth")
    content = torch.load(tmp_path / "last.pth", weights_only=True)
    stored = content["training"]["recipe"]
    for table, names in {
        "model": ("stride_in_1x1", "neck", "bifpn_repeats", "semantic_head"),
        "optimizer": ("decay_norms",),
        "start": ("norm_affine",),
        "losses": ("family",),
    }.items():
        for name in names:
            del stored[table][name]
    for part in ("preprocessing", "selection"):
        del stored["model"][part]["family"]
    torch.save(content, tmp_path / "last.pth")
    assert resumed_run(old, tmp_path / "last.pth", CPU).iteration == 0
    with pytest.raises(ConfigError, match=r"it differs in optimizer\.decay_norms: True then, False now"):
        resumed_run(replace(old, optimizer=replace(old.optimizer, decay_norms=False)), tmp_path / "last.pth", CPU)
