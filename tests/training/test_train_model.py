"""Training as one function call."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import condinst_deploy
from condinst_deploy import Predictor, TrainOptions, train
from condinst_deploy.data.shapes import generate_shapes
from condinst_deploy.errors import CheckpointError, ConfigError
from condinst_deploy.model.losses import Losses
from condinst_deploy.training.recipe import Recipe, load_recipe
from condinst_deploy.training.trainer import Reports
from tests.support.recipes import RECIPE

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train_model")
    generate_shapes(folder, "val", 2)
    (folder / "tiny.toml").write_text(RECIPE.replace("iterations = 100", "iterations = 3"))
    return folder


def options(folder: Path, out: Path) -> TrainOptions:
    annotations, images = folder / "val.json", folder / "val"
    return TrainOptions(out, annotations, images, annotations, images, device="cpu")


def test_a_run_is_reported_interrupted_resumed_and_ends_with_a_model(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    def on_step(iteration: int, _: Losses) -> None:
        told.append(f"step {iteration}")
        if told.count("step 2") == 1 and iteration == 2:
            raise KeyboardInterrupt

    reports = Reports(
        on_step=on_step,
        on_stage=told.append,
        on_note=told.append,
        on_data=lambda sets: told.append(f"{len(sets.train)} images"),
        on_start=lambda iteration, recipe: told.append(f"from {iteration} to {recipe.schedule.iterations}"),
        on_interrupted=lambda iteration, place: told.append(f"stopped at {iteration} in {place.name}"),
    )
    given = options(folder, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(folder / "tiny.toml", given, reports)
    assert "looking at the training data" in told
    report = told.index("looking at the training data")
    assert any("rectangle" in line for line in told[report:])  # a table of classes
    del told[report : told.index("from 0 to 3")]
    assert told == ["reading the data", "2 images", "from 0 to 3", "step 1", "step 2", "stopped at 2 in run"]
    told[:] = ["step 2"]
    trained = train(folder / "tiny.toml", replace(given, resume=True), reports)
    del told[told.index("looking at the training data") : told.index("resumed at iteration 2")]
    assert told[1:] == ["reading the data", "2 images", "resumed at iteration 2", "from 2 to 3", "step 3"]
    assert trained.folder == tmp_path / "run"
    assert trained.metrics["iteration"] == 3
    last = json.loads((trained.folder / "history.jsonl").read_text().splitlines()[-1])
    assert trained.metrics["segm/ap"] == pytest.approx(last["segm/ap"])
    assert Predictor(trained.model, device="cpu").class_names == ("ellipse", "rectangle", "star")
    assert capsys.readouterr() == ("", "")  # nothing is printed: the caller decides what is shown


def test_a_folder_with_a_run_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "last.pth").touch()
    with pytest.raises(ConfigError, match=r"last\.pth exists: go on with --resume"):
        train(folder / "tiny.toml", options(folder, tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["last.pth"]


def test_a_recipe_in_memory_needs_a_folder() -> None:
    with pytest.raises(ConfigError, match=r"expected a folder in TrainOptions\.out"):
        train(Recipe())


def test_another_number_of_classes_is_refused(folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(folder / "tiny.toml"))
    with pytest.raises(ConfigError, match="--num-classes is 7; the data set has 3 classes"):
        train(recipe, replace(options(folder, tmp_path / "run"), num_classes=7))
    assert not (tmp_path / "run").exists()


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").touch()
    with pytest.raises(CheckpointError, match=r"no checkpoint at none\.pth"):
        TrainOptions(weights=Path("none.pth"))
    with pytest.raises(ConfigError, match="--weights and --resume both say"):
        TrainOptions(weights=tmp_path / "a.pth", resume=True)
    with pytest.raises(ConfigError, match="--weights and --backbone both say"):
        TrainOptions(weights=tmp_path / "a.pth", backbone=tmp_path / "a.pth")


def test_the_package_offers_the_function_itself() -> None:
    assert condinst_deploy.train is train
