"""Several processes train as one does: the same images, the same gradients, and they end together."""

import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.data.transforms import TrainingBatch
from condinst_deploy.errors import ConfigError, DataError, DistributedError, OutputError
from condinst_deploy.model.losses import Losses, LossSettings
from condinst_deploy.support.signals import listen, listen_for_preemption
from condinst_deploy.training.batches import batches, parts_of
from condinst_deploy.training.history import read_history
from condinst_deploy.training.order import batch_keys
from condinst_deploy.training.ranks import ALONE, Ranks, device_of, ranks_from_environment
from condinst_deploy.training.recipe import (
    ExecutionSettings,
    Recipe,
    ScheduleSettings,
    StartSettings,
)
from condinst_deploy.training.run import TrainingRun
from condinst_deploy.training.run_start import resumed_run
from condinst_deploy.training.store import CheckpointStore
from condinst_deploy.training.trainer import Reports, Sets, evaluate, open_sets, train
from tests.support.processes import in_processes
from tests.support.recipes import tiny_recipe
from tests.support.training_runs import run_of

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")

MOST_SECONDS = 30.0
"""After a process is killed, until the others have written their checkpoint."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    generate_shapes(folder, "train", 10)
    generate_shapes(folder, "val", 4)
    return folder


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Recipe:
    recipe = tiny_recipe(folder / "train.json", folder / "val.json", 64)
    return replace(
        recipe,
        schedule=ScheduleSettings(iterations=6, batch_size=4, warmup_iterations=2, steps=(5,)),
        start=replace(recipe.start, norm_eval=StartSettings().norm_eval),
        losses=LossSettings(max_masks=6, normalisers="global"),
        checkpoint_every=1000,
        log_every=1,
    )


@pytest.fixture(scope="module")
def sets(recipe: Recipe) -> Sets:
    return open_sets(recipe)


def with_fixed_norms(run: TrainingRun) -> TrainingRun:
    """All norms use their running statistics, so that an image's features do not depend on the batch."""
    for module in run.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.training = False
            module.train = lambda mode=True, module=module: module  # type: ignore[method-assign,misc]
    return run


def gradients(recipe: Recipe, sets: Sets, ranks: Ranks, dtype: torch.dtype) -> dict[str, Tensor]:
    """Of all parameters, after one step."""
    run = with_fixed_norms(run_of(recipe, sets, ranks))
    run.model.to(dtype)
    parts = [
        next(loader) for loader in [batches(sets.train, recipe, 0, ranks)] for _ in range(recipe.execution.accumulate)
    ]
    run.step(*parts)
    return {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest difference of two sets of gradients, in the norm of all of them."""
    assert a.keys() == b.keys()
    one, other = (torch.cat([x[name].double().flatten() for name in sorted(a)]) for x in (a, b))
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_gradients_of_two_processes_are_those_of_one(
    dtype: torch.dtype, most: float, recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    alone = gradients(recipe, sets, ALONE, dtype)
    first, second = in_processes(2, lambda ranks: gradients(recipe, sets, ranks, dtype), tmp_path)
    assert difference(first, second) == 0
    assert 0 < difference(alone, first) < most


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(
    dtype: torch.dtype, most: float, recipe: Recipe, sets: Sets
) -> None:
    in_parts = replace(recipe, execution=ExecutionSettings(accumulate=4))
    assert 0 < difference(gradients(recipe, sets, ALONE, dtype), gradients(in_parts, sets, ALONE, dtype)) < most


def test_normalisers_of_the_mask_loss_stay_each_processes_own_in_a_recipe_of_the_references(
    recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    """As both references have it; the gradients then differ from those of one process."""
    theirs = replace(recipe, losses=replace(recipe.losses, normalisers="reference", max_masks=None))
    alone = gradients(theirs, sets, ALONE, torch.float64)
    first, _ = in_processes(2, lambda ranks: gradients(theirs, sets, ranks, torch.float64), tmp_path)
    masks = [name for name in alone if name.startswith(("head.controller", "mask_branch"))]
    others = [name for name in alone if name.startswith(("head.cls", "head.box_pred", "head.centerness"))]
    part = [{name: x[name] for name in names} for names in (masks, others) for x in (alone, first)]
    assert difference(part[0], part[1]) > 1e-6
    assert difference(part[2], part[3]) < 1e-9


def positions_and_images(run: TrainingRun) -> list[tuple[int, int]]:
    """Return the position and image of all examples that a run's steps see from now on."""
    seen: list[tuple[int, int]] = []
    step = run.step

    def noted(*parts: TrainingBatch) -> Losses:
        seen.extend((source.position, source.image_id) for part in parts for source in part.sources)
        return step(*parts)

    run.step = noted  # type: ignore[method-assign]
    return seen


def stop_at(when: int) -> Reports:
    def on_step(iteration: int, _losses: Losses) -> None:
        if iteration == when:
            os.kill(os.getpid(), signal.SIGUSR1)

    return Reports(on_step=on_step)


def test_a_run_goes_on_with_other_numbers_of_processes_and_sees_the_same_images(
    recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    """Two processes, then one, then two; stopped by a scheduler's signal, which only one of them hears."""

    def stretch(ranks: Ranks, number: int) -> list[tuple[int, int]]:
        listen(lambda number: None)
        listen_for_preemption()
        run = run_of(recipe, sets, ranks) if number == 0 else resumed_run(recipe, tmp_path / "last.pth", CPU, ranks)
        seen = positions_and_images(with_fixed_norms(run))
        stops = number < 2 and ranks.rank == ranks.size - 1
        try:
            train(run, sets, tmp_path, stop_at(2 * number + 2) if stops else Reports())
        except KeyboardInterrupt:
            assert number < 2
            assert run.iteration == 2 * number + 2
        return seen

    seen: list[tuple[int, int]] = []
    for number, size in enumerate((2, 1, 2)):
        outcomes = in_processes(size, lambda ranks, number=number: stretch(ranks, number), tmp_path)  # type: ignore[misc]
        seen += [each for outcome in outcomes for each in outcome]
    alone = with_fixed_norms(run_of(recipe, sets))
    wanted = positions_and_images(alone)
    train(alone, sets, tmp_path / "alone", Reports())
    assert sorted(seen) == sorted(wanted)
    assert len(seen) == 6 * 4
    mine, theirs = (read_history(tmp_path / name / "history.jsonl")[:6] for name in (".", "alone"))
    assert [r["iteration"] for r in mine] == [r["iteration"] for r in theirs]
    np.testing.assert_allclose([r["loss/total"] for r in mine], [r["loss/total"] for r in theirs], rtol=1e-3)


def training(recipe: Recipe, sets: Sets, out: Path, on_step: Callable[[Ranks, int], None]) -> Callable[[Ranks], Any]:
    """A run that does something after each step of each process."""

    def function(ranks: Ranks) -> int:
        run = run_of(recipe, sets, ranks)
        train(run, sets, out, Reports(on_step=lambda iteration, _: on_step(ranks, iteration)))
        return run.iteration

    return function


@pytest.mark.parametrize("lost", [0, 1])
def test_where_a_process_is_killed_the_other_ends_with_a_sentence_and_a_checkpoint(
    lost: int, recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    def kill(ranks: Ranks, iteration: int) -> None:
        if (ranks.rank, iteration) == (lost, 3):
            (tmp_path / "killed_at").write_text(repr(time.monotonic()))  # one clock for all processes of a machine
            os.kill(os.getpid(), signal.SIGKILL)

    def function(ranks: Ranks) -> tuple[DistributedError, float]:
        with pytest.raises(DistributedError) as raised:
            training(recipe, sets, tmp_path, kill)(ranks)
        return raised.value, time.monotonic()

    # an hour: what ends the other process is the broken connection, not the timeout
    outcomes = in_processes(2, function, tmp_path, timeout=3600.0)
    assert outcomes[lost] is None
    error, ended_at = outcomes[1 - lost]
    assert "another of the 2 processes ended" in str(error)
    assert ended_at - float((tmp_path / "killed_at").read_text()) < MOST_SECONDS
    assert resumed_run(recipe, tmp_path / "last.pth", CPU).iteration == 3


def test_a_step_that_ended_is_not_undone_with_its_successor(recipe: Recipe, sets: Sets) -> None:
    run = run_of(recipe, sets)
    run.step(next(batches(sets.train, recipe, 0)))
    after = {key: value.clone() for key, value in run.model.state_dict().items()}
    run.undo()
    assert all(torch.equal(value, after[key]) for key, value in run.model.state_dict().items())


def test_where_the_disk_of_the_process_that_writes_is_full_both_end_and_the_earlier_checkpoint_stays(
    recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    """The first process may write no file of more than 50,000 bytes from its third step on."""

    def fill(ranks: Ranks, iteration: int) -> None:
        if iteration == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does when it starts
    often = replace(recipe, checkpoint_every=2)
    first, second = in_processes(2, training(often, sets, tmp_path, fill), tmp_path)
    assert isinstance(first, OutputError)
    assert "cannot be written (File too large)" in str(first)
    assert isinstance(second, DistributedError | OutputError)
    assert "File too large" in str(second)
    assert resumed_run(often, CheckpointStore(tmp_path, 2).newest().path, CPU).iteration == 2
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file() and "meeting" not in path.name} == {
        ".pth",
        ".toml",
        ".jsonl",
        ".png",
    }


def test_a_process_that_hangs_is_waited_for_as_long_as_the_recipe_says(
    recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    def hang(ranks: Ranks, iteration: int) -> None:
        if (ranks.rank, iteration) == (1, 2):
            time.sleep(600)

    first, _ = in_processes(2, training(recipe, sets, tmp_path, hang), tmp_path, timeout=3.0, hangs=1)
    assert isinstance(first, DistributedError)
    assert "did not answer in time" in str(first)
    assert resumed_run(recipe, tmp_path / "last.pth", CPU).iteration == 2


def test_a_damaged_image_of_one_process_ends_all_and_is_named(recipe: Recipe, tmp_path: Path) -> None:
    annotations = generate_shapes(tmp_path, "train", 10)
    recipe = replace(
        recipe, data=replace(recipe.data, train_annotations=str(annotations), train_images=str(tmp_path / "train"))
    )
    sets = open_sets(recipe)
    name = next(batches(sets.train, recipe, 1, Ranks(1, 2))).sources[0].name
    (tmp_path / "train" / name).write_bytes(b"no image")
    seen_first = [
        iteration
        for iteration in range(2)
        for rank in range(2)
        for key in _names(sets, recipe, iteration, rank)
        if key == name
    ]
    first, second = in_processes(2, training(recipe, sets, tmp_path / "run", lambda *_: None), tmp_path)
    assert {type(first), type(second)} == {DistributedError, DataError}
    assert all(name in str(outcome) for outcome in (first, second))
    assert resumed_run(recipe, tmp_path / "run" / "last.pth", CPU).iteration == seen_first[0]


def _names(sets: Sets, recipe: Recipe, iteration: int, rank: int) -> list[str]:
    keys = batch_keys(len(sets.train), recipe.schedule.batch_size, recipe.seed, iteration, iteration + 1)
    return [sets.train.paths[index].name for part in parts_of(keys, recipe, Ranks(rank, 2)) for _, index in part]


def test_losses_that_are_not_finite_in_one_process_stop_both_and_name_the_images(
    recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    def spoil(ranks: Ranks) -> None:
        run = run_of(recipe, sets, ranks)
        before = [x.clone() for x in run.model.state_dict().values()]
        batch = next(batches(sets.train, recipe, 0, ranks))
        if ranks.rank == 1:
            batch.targets[0].boxes.fill_(torch.nan)
            batch.targets[0].boxes[:, :2] = 0
            batch.targets[0].boxes[:, 2:] = 64
            run.losses.register_forward_hook(lambda _m, _i, out: out | {"box": out["box"] * torch.nan})
        try:
            run.step(batch)
        finally:
            after = run.model.state_dict()
            same = {key for key, b in zip(after, before, strict=True) if torch.equal(after[key], b)}
            assert {key for key in after if not key.endswith("batches_tracked")} <= same

    names = {source.name for rank in (0, 1) for source in next(batches(sets.train, recipe, 0, Ranks(rank, 2))).sources}
    for outcome in in_processes(2, spoil, tmp_path):
        assert isinstance(outcome, ConfigError)
        assert "box nan" in str(outcome)
        assert all(name in str(outcome) for name in names)
    assert len(names) == 4


def test_an_evaluation_of_two_processes_is_that_of_one(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    def evaluated(ranks: Ranks) -> dict[str, float]:
        run = run_of(recipe, sets, ranks)
        return evaluate(run, sets, Reports())

    first, second = in_processes(2, evaluated, tmp_path)
    assert first == second == evaluated(ALONE)


def test_statistics_of_norms_are_averaged_over_the_processes(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    def statistics(ranks: Ranks) -> tuple[Tensor, Tensor]:
        run = run_of(recipe, sets, ranks)
        run.step(next(batches(sets.train, recipe, 0, ranks)))
        norm = next(m for m in run.model.mask_branch.modules() if isinstance(m, nn.BatchNorm2d))
        assert norm.running_mean is not None
        own = norm.running_mean.clone()
        run.average_statistics()
        return own, norm.running_mean.clone()

    (own0, mean0), (own1, mean1) = in_processes(2, statistics, tmp_path)
    assert not torch.equal(own0, own1)
    assert torch.equal(mean0, mean1)
    torch.testing.assert_close(mean0, (own0 + own1) / 2)


def test_a_batch_that_cannot_be_divided_is_refused(recipe: Recipe, sets: Sets) -> None:
    with pytest.raises(ConfigError, match="batch_size is 4; expected a multiple of 3 processes"):
        next(batches(sets.train, recipe, 0, Ranks(0, 3)))


def test_norms_are_not_synchronised_on_a_cpu(recipe: Recipe, sets: Sets) -> None:
    synchronised = replace(recipe, execution=ExecutionSettings(sync_norms=True))
    with pytest.raises(ConfigError, match="PyTorch synchronises norms on GPUs alone"):
        run_of(synchronised, sets, Ranks(0, 2))
    assert run_of(synchronised, sets).ranks == ALONE  # one process has nothing to synchronise


def test_the_environment_of_torchrun_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert ranks_from_environment() == ALONE
    monkeypatch.setenv("WORLD_SIZE", "8")
    with pytest.raises(ConfigError, match="RANK is '' in the environment"):
        ranks_from_environment()
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ranks_from_environment() == Ranks(5, 8, 1)
    monkeypatch.setenv("RANK", "8")
    with pytest.raises(ConfigError, match="expected 0 <= RANK < WORLD_SIZE"):
        ranks_from_environment()


def test_each_process_has_a_gpu_of_its_own() -> None:
    assert device_of(Ranks(0, 2), CPU) == CPU
    with pytest.raises(ConfigError, match="2 processes have a GPU each: give cuda, without a number"):
        device_of(Ranks(0, 2), torch.device("cuda:0"))
