"""Execution of steps: precision, loss scaling, averages of weights, compilation, and the backbone's source."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from condinst_deploy.contract.precision import Precision
from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.errors import ConfigError
from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.model.losses import Losses
from condinst_deploy.training.averaging import WeightAverage
from condinst_deploy.training.batches import batches
from condinst_deploy.training.imagenet import torchvision_resnet
from condinst_deploy.training.loss_module import LossModule
from condinst_deploy.training.loss_scale import LossScale
from condinst_deploy.training.recipe import (
    ExecutionSettings,
    Recipe,
    ScheduleSettings,
)
from condinst_deploy.training.run import TrainingRun
from condinst_deploy.training.run_start import resumed_run
from condinst_deploy.training.trainer import Reports, Sets, open_sets, train
from tests.support.recipes import tiny_recipe
from tests.support.training_runs import run_of

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("shapes")
    annotations = generate_shapes(folder, "val", 4)
    recipe = tiny_recipe(annotations, annotations, 64)
    return replace(
        recipe,
        model=replace(recipe.model, base_width=16),
        schedule=ScheduleSettings(iterations=4, batch_size=2, warmup_iterations=1, steps=()),
        tensorboard=False,
    )


@pytest.fixture(scope="module")
def sets(recipe: Recipe) -> Sets:
    return open_sets(recipe)


def one_step(recipe: Recipe, sets: Sets) -> tuple[TrainingRun, Losses]:
    run = run_of(recipe, sets)
    return run, run.step(next(batches(sets.train, recipe, 0)))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_has_nearly_the_losses_of_float32(precision: Precision, recipe: Recipe, sets: Sets) -> None:
    _, whole = one_step(recipe, sets)
    run, half = one_step(replace(recipe, execution=ExecutionSettings(precision)), sets)
    for name, loss in half.terms.items():
        assert loss.item() == pytest.approx(whole.terms[name].item(), rel=0.03), name
        assert loss.item() != whole.terms[name].item(), name
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    gradients = {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}
    assert [name for name, gradient in gradients.items() if not gradient.isfinite().all()] == []


def test_gradients_of_scaled_losses_are_unscaled(recipe: Recipe, sets: Sets) -> None:
    run, _ = one_step(replace(recipe, execution=ExecutionSettings("float16")), sets)
    plain, _ = one_step(recipe, sets)
    assert run.scale == LossScale(65_536.0, good_steps=1)
    norms = [
        torch.stack([p.grad.norm() for p in each.model.parameters() if p.grad is not None]).norm().item()
        for each in (run, plain)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_a_step_whose_gradients_overflow_changes_no_weight_and_halves_the_scale(recipe: Recipe, sets: Sets) -> None:
    run = run_of(replace(recipe, execution=ExecutionSettings("float16")), sets)
    run.scale = LossScale(factor=1e38)
    before = [p.clone() for p in run.model.parameters()]
    run.step(next(batches(sets.train, recipe, 0)))
    assert all(torch.equal(a, b) for a, b in zip(before, run.model.parameters(), strict=True))
    assert run.scale == LossScale(factor=5e37)
    assert run.iteration == 1


def test_the_scale_moves_as_pytorchs_does() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    theirs = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
    ours = LossScale(8.0, growth_interval=3)
    for overflows in (False, False, False, False, True, True, False, False, False):
        theirs.scale(weight.sum() * (torch.inf if overflows else 1)).backward()
        finite = ours.unscale([weight])
        ours.update(finite)
        assert finite is not overflows
        weight.grad = torch.full((3,), torch.inf if overflows else 1.0)
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        assert ours.factor == theirs.get_scale()


def test_the_average_is_that_of_the_weights_after_every_step() -> None:
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.5)
    wanted = model[0].weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model[0].weight += step
            model[1].running_mean += step
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * model[0].weight.detach()
    own: Any = average.model
    torch.testing.assert_close(own[0].weight, wanted)
    assert torch.equal(own[1].running_mean, model[1].running_mean)


def test_the_average_is_evaluated_and_exported_and_a_resumed_run_has_both(
    recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    averaged = replace(recipe, optimizer=replace(recipe.optimizer, average_decay=0.9))
    whole = run_of(averaged, sets)
    train(whole, sets, tmp_path / "whole", Reports())
    assert whole.average is not None
    weights, average = whole.model.state_dict(), whole.average.model.state_dict()
    assert any(not torch.equal(weights[key], average[key]) for key in weights)
    for name in ("model.pth", "last.pth", "best.pth"):
        loaded = load_model(tmp_path / "whole" / name).model.state_dict()
        assert all(torch.equal(loaded[key], average[key]) for key in average), name

    def stop(iteration: int, _: Losses) -> None:
        if iteration == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run_of(averaged, sets), sets, tmp_path / "parts", Reports(on_step=stop))
    resumed = resumed_run(averaged, tmp_path / "parts" / "last.pth", CPU)
    train(resumed, sets, tmp_path / "parts", Reports())
    assert resumed.average is not None
    for one, other in ((resumed.model, whole.model), (resumed.average.model, whole.average.model)):
        left, right = one.state_dict(), other.state_dict()
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_a_run_may_go_on_with_another_precision_and_accumulation(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    run_of(recipe, sets).save(tmp_path / "last.pth")
    other = replace(recipe, execution=ExecutionSettings("bfloat16", accumulate=2), data=replace(recipe.data, workers=1))
    assert resumed_run(other, tmp_path / "last.pth", CPU).recipe.execution.accumulate == 2
    with pytest.raises(ConfigError, match=r"it differs in data\.keep_empty: False then, True now"):
        resumed_run(replace(recipe, data=replace(recipe.data, keep_empty=True)), tmp_path / "last.pth", CPU)


@pytest.mark.slow
def test_a_compiled_step_has_the_losses_and_gradients_of_a_plain_one(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe, sets: Sets
) -> None:
    """Traced with its gradients and run as traced: making kernels of it for a CPU takes minutes."""
    compiled_by = torch.compile
    monkeypatch.setattr(torch, "compile", partial(compiled_by, backend="aot_eager"))
    plain, losses = one_step(recipe, sets)
    compiled = run_of(recipe, sets)
    compiled.losses = LossModule(compiled.model, replace(recipe, execution=ExecutionSettings(compile=True)))
    theirs = compiled.step(next(batches(sets.train, recipe, 0)))
    for name, loss in losses.terms.items():
        assert theirs.terms[name].item() == pytest.approx(loss.item(), rel=1e-4)
    pairs = zip(plain.model.parameters(), compiled.model.parameters(), strict=True)
    for own, other in pairs:
        if own.grad is not None:
            assert other.grad is not None
            torch.testing.assert_close(other.grad, own.grad, rtol=1e-3, atol=1e-4 * own.grad.abs().max().item())


def test_compiling_is_refused_on_a_cpu(recipe: Recipe, sets: Sets) -> None:
    with pytest.raises(ConfigError, match=r"execution\.compile is true and the device is cpu"):
        run_of(replace(recipe, execution=ExecutionSettings(compile=True)), sets)


def test_torchvisions_weights_are_taken_from_the_cache_or_fetched_or_the_reason_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    asked: list[str] = []

    def fetch(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        asked.append(f"{url} {hash_prefix}")
        if "resnet50" in url:
            raise OSError("no network")
        Path(path).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    with pytest.raises(ConfigError, match=r"resnet50-0676ba61\.pth cannot be fetched \(no network\).*--backbone"):
        torchvision_resnet(50)
    for _ in range(2):
        assert torchvision_resnet(18).read_bytes() == b"weights"
    assert [line.split()[1] for line in asked] == ["0676ba61", "f37072fd"]
