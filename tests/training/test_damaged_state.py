"""A checkpoint whose state of the training is damaged or made by hand is refused in one line."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.errors import CheckpointError
from condinst_deploy.training.recipe import Recipe
from condinst_deploy.training.run_start import resumed_run
from condinst_deploy.training.trainer import Reports, Sets, open_sets, train
from tests.support.recipes import tiny_recipe
from tests.support.training_runs import run_of

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["sgd", "adamw", "muon"])
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Sets, Path]:
    """A recipe of each optimizer, its data, and the folder of a run of three steps."""
    folder = tmp_path_factory.mktemp(request.param)
    generate_shapes(folder, "train", 4)
    generate_shapes(folder, "val", 1)
    recipe = tiny_recipe(folder / "train.json", folder / "val.json", 64)
    optimizer = replace(recipe.optimizer, kind=request.param, average_decay=0.5, **DEFAULTS[request.param])
    schedule = replace(recipe.schedule, iterations=3, batch_size=1)
    recipe = replace(recipe, optimizer=optimizer, schedule=schedule)
    sets = open_sets(recipe)
    train(run_of(recipe, sets), sets, folder / "run", Reports())
    return recipe, sets, folder / "run"


DEFAULTS: dict[str, dict[str, Any]] = {"sgd": {}, "adamw": {"momentum": 0.9}, "muon": {}}


def first_state(training: dict[str, Any]) -> dict[str, Any]:
    """What the last optimizer of a checkpoint keeps of its first parameter."""
    optimizer = training["optimizer"].get("adamw", training["optimizer"])
    state: dict[str, Any] = next(iter(optimizer["state"].values()))
    return state


def largest(state: dict[str, Any]) -> str:
    return max(state, key=lambda name: state[name].numel())


def not_finite(training: dict[str, Any]) -> None:
    state = first_state(training)
    state[largest(state)].view(-1)[0] = torch.nan


def mis_shaped(training: dict[str, Any]) -> None:
    state = first_state(training)
    state[largest(state)] = torch.zeros(3, 5, 7)


def text(training: dict[str, Any]) -> None:
    state = first_state(training)
    state[largest(state)] = "\x1b]0;title\x07" * 1000


def incomplete(training: dict[str, Any]) -> None:
    state = first_state(training)
    state["other"] = state.pop(largest(state))


def of_no_parameter(training: dict[str, Any]) -> None:
    optimizer = training["optimizer"].get("adamw", training["optimizer"])
    optimizer["state"][10**9] = dict(first_state(training))


def average_not_finite(training: dict[str, Any]) -> None:
    next(iter(training["weights"].values())).view(-1)[0] = torch.inf


def with_iteration(value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda training: training.update(iteration=value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (not_finite, "not finite"),
        (mis_shaped, r"\(3, 5, 7\)"),
        (text, "expected floating-point numbers"),
        (incomplete, "expected .*(momentum_buffer|exp_avg)"),
        (of_no_parameter, "unknown parameter 1000000000"),
        (average_not_finite, "not finite"),
        (with_iteration(-1), "iteration is -1; expected a whole number from 0 to 3"),
        (with_iteration(4), "iteration is 4"),
        (with_iteration("3"), "iteration is '3'"),
        (with_iteration(10**30), "iteration is 10{30}"),
        (lambda training: training.pop("optimizer"), "optimizer"),
        (lambda training: training.update(optimizer=[]), "cannot be used"),
        (lambda training: training.update(weights=3), "cannot be used"),
        (lambda training: training.update(data=[1]), "data is \\[1\\]"),
        (lambda training: training.update(data={"val": 4}), "data.val is 4"),
    ],
)
def test_a_damaged_state_is_refused(
    damage: Callable[[dict[str, Any]], None], message: str, kept: tuple[Recipe, Sets, Path]
) -> None:
    recipe, _, folder = kept
    content = torch.load(folder / "last.pth", weights_only=True)
    damage(content["training"])
    with pytest.raises(CheckpointError, match=message) as raised:
        resumed_run(recipe, folder / "last.pth", CPU, content=content)
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_settings_in_a_state_do_not_replace_the_recipes(kept: tuple[Recipe, Sets, Path]) -> None:
    recipe, _, folder = kept
    content = torch.load(folder / "last.pth", weights_only=True)
    wanted = copy.deepcopy(
        [_settings(group) for group in resumed_run(recipe, folder / "last.pth", CPU).optimizer.param_groups]
    )
    optimizer = content["training"]["optimizer"]
    for part in optimizer.values() if "adamw" in optimizer else [optimizer]:
        for group in part["param_groups"]:
            group.update(weight_decay="much", eps=torch.nan, other=[1])
    run = resumed_run(recipe, folder / "last.pth", CPU, content=content)
    assert [_settings(group) for group in run.optimizer.param_groups] == wanted


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
