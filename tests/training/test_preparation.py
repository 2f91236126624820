"""Processes that prepare images and cannot go on: one line, a checkpoint, and no wait."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.data.transforms import TrainingTransform
from condinst_deploy.model.losses import Losses
from condinst_deploy.training.batches import PreparationError, batches
from condinst_deploy.training.recipe import Recipe, ScheduleSettings
from condinst_deploy.training.run_start import resumed_run
from condinst_deploy.training.trainer import Reports, Sets, open_sets, train
from tests.support.recipes import tiny_recipe
from tests.support.training_runs import run_of

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("shapes")
    recipe = tiny_recipe(generate_shapes(folder, "train", 6), generate_shapes(folder, "val", 2), 64)
    schedule = ScheduleSettings(iterations=8, batch_size=2, warmup_iterations=0)
    data = replace(recipe.data, workers=1, prefetch=1)
    return replace(recipe, data=data, schedule=schedule, checkpoint_every=100, evaluate_every=0, short_sides=(64,))


@pytest.fixture(scope="module")
def sets(recipe: Recipe) -> Sets:
    return open_sets(recipe)


def on_step(do: Callable[[], None], when: int) -> Reports:
    def step(iteration: int, _losses: Losses) -> None:
        if iteration == when:
            do()

    return Reports(on_step=step)


def test_shared_memory_that_is_full_stops_the_run_with_a_checkpoint(
    recipe: Recipe, sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.share_memory_
    calls = []

    def full(tensor: torch.Tensor) -> torch.Tensor:
        calls.append(tensor)
        if len(calls) > 3:  # one tensor of a batch; counted in the forked process
            raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)")
        return share(tensor)

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(PreparationError, match=r"^[^\n]*shared memory \(.*No space left[^\n]*data\.workers = 0[^\n]*$"):
        train(run_of(recipe, sets), sets, tmp_path, Reports())
    assert resumed_run(recipe, tmp_path / "last.pth", CPU).iteration == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_process_stops_the_run_with_a_checkpoint(
    workers: int, recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    recipe = replace(recipe, data=replace(recipe.data, workers=workers))
    others = set(multiprocessing.active_children())

    def kill_one() -> None:
        process = next(process for process in multiprocessing.active_children() if process not in others)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(
        PreparationError, match=r"^a process that prepares images ended \([^\n]*\); [^\n]*--resume$"
    ) as held:
        train(run_of(recipe, sets), sets, tmp_path, on_step(kill_one, when=2))
    assert held.value is not None
    assert set(multiprocessing.active_children()) <= others  # the other one has ended, too
    assert resumed_run(recipe, tmp_path / "last.pth", CPU).iteration >= 2


def test_another_error_of_pytorch_stays(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        train(run_of(recipe, sets), sets, tmp_path, on_step(fail, when=1))
    assert not (tmp_path / "last.pth").exists()


def test_a_process_that_raises_what_nobody_expects_is_ended(
    recipe: Recipe, sets: Sets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect of a transform")

    monkeypatch.setattr(TrainingTransform, "__call__", fail)
    others = set(multiprocessing.active_children())
    with pytest.raises(ZeroDivisionError, match=r"(?s)Traceback.*a defect of a transform") as held:
        train(run_of(recipe, sets), sets, tmp_path, Reports())
    assert held.value is not None
    assert set(multiprocessing.active_children()) <= others  # Python would wait for them, and they ignore signals


def test_a_batch_comes_through_shared_memory_as_it_was_made(recipe: Recipe, sets: Sets) -> None:
    alone = replace(recipe, data=replace(recipe.data, workers=0))
    for shared, own in zip(batches(sets.train, recipe, 0), batches(sets.train, alone, 0), strict=True):
        assert shared.images.is_shared()
        assert not own.images.is_shared()
        assert torch.equal(shared.images, own.images)
        for one, other in zip(shared.targets, own.targets, strict=True):
            assert torch.equal(one.masks, other.masks)
