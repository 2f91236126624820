"""A resumed run notices data that changed under the same path."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from condinst_deploy import TrainOptions, train
from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.errors import ConfigError
from condinst_deploy.model.losses import Losses
from condinst_deploy.support.digests import sha256_of
from condinst_deploy.training.train_model import check
from condinst_deploy.training.trainer import Reports
from tests.support.recipes import RECIPE

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def stopped(tmp_path: Path) -> TrainOptions:
    """How to go on with a run that was stopped after its first step."""
    generate_shapes(tmp_path, "train", 3)
    generate_shapes(tmp_path, "val", 2)
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("iterations = 100", "iterations = 2"))
    train_json, val_json = tmp_path / "train.json", tmp_path / "val.json"
    options = TrainOptions(tmp_path / "run", train_json, tmp_path / "train", val_json, tmp_path / "val", device="cpu")

    def stop(_iteration: int, _losses: Losses) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "tiny.toml", options, Reports(on_step=stop))
    return replace(options, resume=True)


def changed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def resume(options: TrainOptions, recipe: Path) -> list[str]:
    """The notes of a run that goes on."""
    notes: list[str] = []
    train(recipe, options, Reports(on_note=notes.append))
    return notes


def test_the_state_and_the_folder_of_a_run_say_what_its_data_is(stopped: TrainOptions, tmp_path: Path) -> None:
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert torch.load(tmp_path / "run" / "last.pth", weights_only=True)["training"]["data"] == record
    for name, images in (("train", 3), ("val", 2)):
        content = json.loads((tmp_path / f"{name}.json").read_text())
        assert record[name] == {
            "annotations": str(tmp_path / f"{name}.json"),
            "sha256": sha256_of(tmp_path / f"{name}.json"),
            "images": images,
            "objects": len(content["annotations"]),
        }
    assert "resumed at iteration 1" in resume(stopped, tmp_path / "tiny.toml")  # and nothing about its data


def test_a_changed_training_set_is_refused_with_both_states(stopped: TrainOptions, tmp_path: Path) -> None:
    then = sha256_of(tmp_path / "train.json")
    objects = len(json.loads((tmp_path / "train.json").read_text())["annotations"])
    changed(tmp_path / "train.json", lambda content: content["annotations"].pop())
    now = sha256_of(tmp_path / "train.json")
    before = (tmp_path / "run" / "last.pth").read_bytes()
    for start in (train, check):
        with pytest.raises(ConfigError) as raised:
            start(tmp_path / "tiny.toml", stopped)
        message = str(raised.value)
        assert f"training set {tmp_path / 'train.json'}" in message
        assert f"3 images, {objects} objects, SHA-256 {then[:12]}... then" in message
        assert f"3 images, {objects - 1} objects, SHA-256 {now[:12]}... now" in message
        assert "validation set" not in message
    assert (tmp_path / "run" / "last.pth").read_bytes() == before


def test_a_changed_validation_set_is_a_note_until_the_first_evaluation(stopped: TrainOptions, tmp_path: Path) -> None:
    changed(tmp_path / "val.json", lambda content: content["annotations"].pop())
    note = next(each for each in resume(stopped, tmp_path / "tiny.toml") if each.startswith("resumed"))
    assert "nothing was evaluated on the old validation set" in note
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert record["val"]["sha256"] == sha256_of(tmp_path / "val.json")
    changed(tmp_path / "val.json", lambda content: content["annotations"].pop())  # the end of the run was evaluated
    with pytest.raises(ConfigError, match=r"the data changed since the run stopped \(validation set"):
        train(tmp_path / "tiny.toml", replace(stopped, iterations=3))


@pytest.mark.parametrize("is_changed", [False, True])
def test_data_that_moved_is_told_by_its_content(is_changed: bool, stopped: TrainOptions, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("train.json", "train", "val.json", "val"):
        (tmp_path / name).rename(moved / name)
    options = replace(
        stopped,
        train_annotations=moved / "train.json",
        train_images=moved / "train",
        val_annotations=moved / "val.json",
        val_images=moved / "val",
    )
    if is_changed:
        changed(moved / "train.json", lambda content: content["annotations"].pop())
        with pytest.raises(ConfigError, match=rf"^the data changed since the run stopped \(training set {moved}"):
            train(tmp_path / "tiny.toml", options)
        return
    assert "resumed at iteration 1" in resume(options, tmp_path / "tiny.toml")
    record = json.loads((tmp_path / "run" / "data.json").read_text())
    assert record["train"]["annotations"] == str(moved / "train.json")
    assert str(moved / "val") in (tmp_path / "run" / "recipe.toml").read_text()


def test_data_that_moved_is_not_found_again_without_a_record(stopped: TrainOptions, tmp_path: Path) -> None:
    content = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    del content["training"]["data"]
    torch.save(content, tmp_path / "run" / "last.pth")
    (tmp_path / "val").rename(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"differs in data\.val_images: .*val' then, .*other' now"):
        train(tmp_path / "tiny.toml", replace(stopped, val_images=tmp_path / "other"))


def test_a_state_without_a_record_goes_on_as_before_and_says_so(stopped: TrainOptions, tmp_path: Path) -> None:
    content = torch.load(tmp_path / "run" / "last.pth", weights_only=True)
    del content["training"]["data"]
    torch.save(content, tmp_path / "run" / "last.pth")
    changed(tmp_path / "train.json", lambda content: content["annotations"].pop())
    note = next(each for each in resume(stopped, tmp_path / "tiny.toml") if each.startswith("resumed"))
    assert "has no record of its data" in note
