"""Evaluations during a run: several processes end together, and what was interrupted is made up for."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.errors import CondInstError, DistributedError
from condinst_deploy.support.signals import listen
from condinst_deploy.training.history import is_evaluation, read_history
from condinst_deploy.training.ranks import Ranks
from condinst_deploy.training.recipe import Recipe, ScheduleSettings
from condinst_deploy.training.run_start import resumed_run
from condinst_deploy.training.shared_progress import IMAGES_APART
from condinst_deploy.training.trainer import Reports, Sets, evaluate, open_sets, train
from tests.support.processes import in_processes
from tests.support.recipes import tiny_recipe
from tests.support.training_runs import run_of

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
EACH = 3 * IMAGES_APART + 3
"""Validation images of each of two processes."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("shapes")
    generate_shapes(folder, "train", 8)
    generate_shapes(folder, "val", 2 * EACH)
    recipe = tiny_recipe(folder / "train.json", folder / "val.json", 64)
    schedule = ScheduleSettings(iterations=3, batch_size=2, warmup_iterations=2, steps=(2,))
    return replace(recipe, schedule=schedule, evaluate_every=2, checkpoint_every=1000, log_every=1)


@pytest.fixture(scope="module")
def sets(recipe: Recipe) -> Sets:
    return open_sets(recipe)


def evaluating(
    recipe: Recipe, sets: Sets, on_image: Callable[[int, int], None], raised: type[BaseException]
) -> Callable[[Ranks], tuple[str, int]]:
    """An evaluation that fails in every process; returns the message, and how many images the process did."""

    def function(ranks: Ranks) -> tuple[str, int]:
        done = 0

        def count(number: int, of: int) -> None:
            nonlocal done
            done = number
            assert of == EACH
            on_image(ranks.rank, number)

        with pytest.raises(raised) as error:
            evaluate(run_of(recipe, sets, ranks), sets, Reports(on_image=count))
        return str(error.value), done

    return function


def test_where_a_process_is_killed_in_an_evaluation_the_other_does_not_detect_to_the_end(
    recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    def kill(rank: int, image: int) -> None:
        if (rank, image) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)

    first, second = in_processes(2, evaluating(recipe, sets, kill, DistributedError), tmp_path, timeout=3600.0)
    assert second is None
    message, done = first
    assert "another of the 2 processes ended" in message
    assert done == IMAGES_APART - 1  # asked at the next one


@pytest.mark.parametrize("damaged", [3, 2 * EACH - 3])  # of the second process: early, and after the last question
def test_a_damaged_validation_image_ends_both_processes(damaged: int, recipe: Recipe, tmp_path: Path) -> None:
    generate_shapes(tmp_path, "val", 2 * EACH)
    val = replace(recipe.data, val_annotations=str(tmp_path / "val.json"), val_images=str(tmp_path / "val"))
    broken = open_sets(replace(recipe, data=val))
    broken.val.paths[damaged].write_bytes(b"no image")
    function = evaluating(recipe, broken, lambda rank, image: None, CondInstError)
    (first, done), (second, _) = in_processes(2, function, tmp_path)
    assert broken.val.paths[damaged].name in second
    assert first.startswith("process 1 of 2 stopped: ")
    assert done == (IMAGES_APART - 1 if damaged == 3 else EACH)


def test_a_signal_in_an_evaluation_stops_all_and_the_evaluation_is_made_when_the_run_goes_on(
    recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    def stopped(ranks: Ranks) -> int:
        listen(lambda number: None)
        done = 0

        def stop(number: int, _of: int) -> None:
            nonlocal done
            done = number
            if (ranks.rank, number) == (1, 1):
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(KeyboardInterrupt):
            train(run_of(recipe, sets, ranks), sets, tmp_path, Reports(on_image=stop))
        return done

    assert in_processes(2, stopped, tmp_path) == [IMAGES_APART - 1] * 2
    assert [r["iteration"] for r in read_history(tmp_path / "history.jsonl") if is_evaluation(r)] == []
    assert not (tmp_path / "best.pth").exists()

    def resumed(ranks: Ranks) -> dict[str, Any]:
        run = resumed_run(recipe, tmp_path / "last.pth", CPU, ranks)
        assert run.iteration == 2
        return train(run, sets, tmp_path, Reports()).last

    first, second = in_processes(2, resumed, tmp_path)
    assert first == second
    assert [r["iteration"] for r in read_history(tmp_path / "history.jsonl") if is_evaluation(r)] == [2, 3]
    assert (tmp_path / "best.pth").is_file()


def test_one_process_that_was_stopped_in_an_evaluation_makes_it_when_it_goes_on(
    recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    def stop(number: int, _of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(run_of(recipe, sets), sets, tmp_path, Reports(on_image=stop))
    evaluated: list[float] = []
    reports = Reports(on_evaluation=lambda record: evaluated.append(record["iteration"]))
    train(resumed_run(recipe, tmp_path / "last.pth", CPU), sets, tmp_path, reports)
    assert evaluated == [2, 3]
    train(resumed_run(recipe, tmp_path / "last-1.pth", CPU), sets, tmp_path, reports)
    assert evaluated == [2, 3, 3]  # that of iteration 2 is in the history
