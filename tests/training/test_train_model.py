"""Training as one function call."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import condinst_deploy
from condinst_deploy import Predictor, TrainOptions, train
from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.errors import CheckpointError, ConfigError, DataError, ImageError, OutputError
from condinst_deploy.model.checkpoints import LoadedModel, load_model
from condinst_deploy.model.losses import Losses
from condinst_deploy.training.history import Record
from condinst_deploy.training.recipe import Recipe, load_recipe
from condinst_deploy.training.train_model import check
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
    reported: list[str] = []

    def on_step(iteration: int, _: Losses) -> None:
        reported.append(f"step {iteration}")
        if reported.count("step 2") == 1 and iteration == 2:
            raise KeyboardInterrupt

    reports = Reports(
        on_step=on_step,
        on_stage=reported.append,
        on_note=reported.append,
        on_data=lambda sets: reported.append(f"{len(sets.train)} images"),
        on_start=lambda iteration, recipe: reported.append(f"from {iteration} to {recipe.schedule.iterations}"),
        on_interrupted=lambda iteration, place: reported.append(f"stopped at {iteration} in {place.name}"),
    )
    given = options(folder, tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(folder / "tiny.toml", given, reports)
    assert "looking at the training data" in reported
    report = reported.index("looking at the training data")
    assert any("rectangle" in line for line in reported[report:])  # a table of classes
    del reported[report : reported.index("from 0 to 3")]
    assert reported == ["reading the data", "2 images", "from 0 to 3", "step 1", "step 2", "stopped at 2 in run"]
    reported[:] = ["step 2"]
    trained = train(folder / "tiny.toml", replace(given, resume=True), reports)
    del reported[reported.index("looking at the training data") : reported.index("resumed at iteration 2")]
    assert reported[1:] == ["reading the data", "2 images", "resumed at iteration 2", "from 2 to 3", "step 3"]
    assert trained.folder == tmp_path / "run"
    assert trained.metrics["iteration"] == 3
    last = json.loads((trained.folder / "history.jsonl").read_text().splitlines()[-1])
    assert trained.metrics["segm/ap"] == pytest.approx(last["segm/ap"])
    assert trained.best_model == trained.folder / "best.pth"
    assert trained.best == trained.metrics  # the only evaluation
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
    with pytest.raises(ConfigError, match="--weights and --backbone both say"):
        TrainOptions(weights=tmp_path / "a.pth", backbone=tmp_path / "a.pth")


def test_data_that_is_not_where_it_was_named_is_refused_before_the_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotations at .*none\.json; expected .* in --val-annotations"):
        TrainOptions(val_annotations=tmp_path / "none.json")
    with pytest.raises(DataError, match=r"no folder at .*none; expected the folder of .* in --train-images"):
        TrainOptions(train_images=tmp_path / "none")
    with pytest.raises(ConfigError, match=r"is a folder; expected a COCO annotation file"):
        TrainOptions(train_annotations=tmp_path)
    assert options(folder, tmp_path / "run").train_images is not None


def test_fine_tuning_takes_the_sizes_that_the_recipe_does_not_name_from_the_weights(
    folder: Path, slim_checkpoint: Path, tmp_path: Path
) -> None:
    """The weights were trained for a short side of 128, the published sizes are 640 to 800 with 800."""
    schedule = "[schedule]\niterations = 2\nbatch_size = 1\nwarmup_iterations = 0\n[data]\nworkers = 0\n"
    given = replace(options(folder, tmp_path / "run"), weights=slim_checkpoint)
    seen: list[Recipe] = []
    reports = Reports(on_start=lambda _, recipe: seen.append(recipe))
    for text, sizes in (
        ("", ((128, 224), (102, 108, 113, 118, 123, 128))),
        ("short_sides = [96]\n", ((128, 224), (96,))),
        ("[model.preprocessing]\nshort_side = 96\n", ((96, 1333), (640, 672, 704, 736, 768, 800))),
    ):
        tuning = tmp_path / "tuning.toml"
        tuning.write_text(text + schedule if text[:1] != "[" else schedule + text)
        with pytest.raises(KeyboardInterrupt):
            train(tuning, given, reports_that_stop(seen) if "[m" in text else replace(reports, on_step=stop_at_once))
        preprocessing = seen[-1].model.preprocessing
        assert ((preprocessing.short_side, preprocessing.long_side), seen[-1].short_sides) == sizes
        again = replace(given, resume=True)
        if "[m" not in text:
            assert train(tuning, again).metrics["iteration"] == 2  # the same command, and --resume
            assert train(tuning, replace(again, weights=None)).metrics["iteration"] == 2
        shutil.rmtree(tmp_path / "run", ignore_errors=True)


def test_weights_that_are_fine_tuned_are_loaded_once(
    folder: Path, slim_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Path] = []

    def counted(path: Path, *arguments: Any, **named: Any) -> LoadedModel:
        loads.append(Path(path))
        return load_model(path, *arguments, **named)

    for module in ("train_model", "run_start"):
        monkeypatch.setattr(f"condinst_deploy.training.{module}.load_model", counted)
    (tmp_path / "tuning.toml").write_text("[schedule]\niterations = 2\nbatch_size = 1\n[data]\nworkers = 0\n")
    given = replace(options(folder, tmp_path / "run"), weights=slim_checkpoint)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "tuning.toml", given, reports_that_stop([]))
    assert loads == [slim_checkpoint]


def stop_at_once(_iteration: int, _losses: Losses) -> None:
    raise KeyboardInterrupt


def reports_that_stop(seen: list[Recipe]) -> Reports:
    """Before the first step: images of 800 pixels take long."""

    def on_start(_iteration: int, recipe: Recipe) -> None:
        seen.append(recipe)
        raise KeyboardInterrupt

    return Reports(on_start=on_start)


def test_a_warm_up_that_does_not_fit_is_shortened_wherever_the_length_comes_from(folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(folder / "tiny.toml"))
    long = replace(recipe, schedule=replace(recipe.schedule, iterations=2, warmup_iterations=1000))
    notes: list[str] = []
    seen: list[Recipe] = []
    reports = Reports(on_note=notes.append, on_start=lambda _, recipe: seen.append(recipe), on_step=stop_at_once)
    with pytest.raises(KeyboardInterrupt):
        train(long, options(folder, tmp_path / "run"), reports)
    assert "warm-up shortened from 1000 to 1 iterations: the run has only 2" in notes
    assert seen[0].schedule.warmup_iterations == 1


def test_a_look_before_a_run_leaves_a_sheet_and_says_what_it_will_take(folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(folder / "tiny.toml"))
    recipe = replace(recipe, schedule=replace(recipe.schedule, iterations=600))
    notes: list[str] = []
    found = check(recipe, options(folder, tmp_path / "run"), Reports(on_note=notes.append))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["examples.jpg"]
    with Image.open(found.sheet) as sheet:
        assert len(sheet.convert("RGB").getcolors(1 << 24) or ()) > 100
    assert (found.iterations, found.epochs) == (600, 300)
    assert found.seconds > 0
    assert any("rectangle" in line for line in notes)
    assert "600 iterations, each image 300.0 times" in found.text()
    (tmp_path / "run" / "last.pth").write_bytes(b"of a run")
    assert check(recipe, options(folder, tmp_path / "run"), Reports(on_note=notes.append)).iterations == 600
    assert "last.pth exists: go on with --resume" in " ".join(notes)
    assert (tmp_path / "run" / "last.pth").read_bytes() == b"of a run"
    with pytest.raises(ConfigError, match="which would stay random"):  # what stops a run stops the look, too
        check(replace(recipe, start=replace(recipe.start, frozen_stages=2)), options(folder, tmp_path / "run"))


def test_a_frozen_backbone_without_weights_is_refused_before_the_data_is_read(folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(folder / "tiny.toml"))
    stages: list[str] = []
    with pytest.raises(ConfigError, match="which would stay random"):
        train(
            replace(recipe, start=replace(recipe.start, frozen_stages=2)),
            options(folder, tmp_path / "run"),
            Reports(on_stage=stages.append),
        )
    assert stages == []
    assert not (tmp_path / "run").exists()


def test_a_finished_run_says_so_and_goes_on_with_more_iterations(folder: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    given, reports = options(folder, tmp_path / "run"), Reports(on_note=notes.append)
    train(folder / "tiny.toml", replace(given, iterations=2), reports)
    train(folder / "tiny.toml", replace(given, iterations=2, resume=True), reports)
    assert notes[-1] == (
        "resumed at iteration 2; the run is finished, all 2 iterations are done:"
        " --resume with a larger --iterations continues it"
    )
    assert train(folder / "tiny.toml", replace(given, iterations=3, resume=True)).metrics["iteration"] == 3


def test_a_validation_image_that_is_damaged_inside_is_named_and_costs_no_step(tmp_path: Path) -> None:
    """It has its end, so that it is found when it is decoded, as one of the training set is."""
    generate_shapes(tmp_path, "val", 2)
    shutil.copytree(tmp_path / "val", tmp_path / "other")
    (tmp_path / "tiny.toml").write_text(RECIPE.replace("iterations = 100", "iterations = 2"))
    image = sorted((tmp_path / "other").iterdir())[1]
    sound = image.read_bytes()
    Image.open(image).convert("RGB").save(image, "png")
    content = bytearray(image.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    image.write_bytes(content)
    given = replace(options(tmp_path, tmp_path / "run"), val_images=tmp_path / "other")
    with pytest.raises(ImageError, match=rf"{image} cannot be decoded"):
        train(tmp_path / "tiny.toml", given)
    assert (tmp_path / "run" / "last.pth").is_file()
    image.write_bytes(sound)
    notes: list[str] = []
    train(tmp_path / "tiny.toml", replace(given, resume=True), Reports(on_note=notes.append))
    assert any(note.startswith("resumed at iteration 2") for note in notes)


@pytest.mark.parametrize("damage", ["a folder", "no JSON", "unreadable"])
def test_a_history_that_is_damaged_during_a_run_costs_neither_result_nor_model(
    damage: str, folder: Path, tmp_path: Path
) -> None:
    """Reading /proc/self/mem fails for every user; it is an ordinary file by its mode."""
    given, history = options(folder, tmp_path / "run"), tmp_path / "run" / "history.jsonl"

    def spoil(_record: Record) -> None:
        history.unlink()
        if damage == "a folder":
            history.mkdir()
        elif damage == "no JSON":
            history.write_bytes(b"\xff\x00{\n" * 10)
        else:
            history.symlink_to("/proc/self/mem")

    trained = train(folder / "tiny.toml", given, Reports(on_evaluation=spoil))
    assert trained.best == trained.metrics
    assert trained.best_model == tmp_path / "run" / "best.pth"
    assert trained.best_model.is_file()
    assert load_model(trained.model).manifest.class_names
    if damage == "no JSON":  # lines that cannot be read are left out
        notes: list[str] = []
        before = trained.best_model.read_bytes()
        train(folder / "tiny.toml", replace(given, resume=True), Reports(on_note=notes.append))
        assert (tmp_path / "run" / "best-earlier.pth").read_bytes() == before
        assert "has no evaluation of the best.pth that is there: it is kept as best-earlier.pth" in notes[-1]
        return
    problem = r"^the history .*history\.jsonl cannot be read \(.*\); expected the file that training writes"
    for start in (train, check):
        with pytest.raises(OutputError, match=problem):
            start(folder / "tiny.toml", replace(given, resume=True))


def test_a_run_with_a_shortened_warm_up_says_why_it_cannot_become_longer(folder: Path, tmp_path: Path) -> None:
    recipe = load_recipe(str(folder / "tiny.toml"))
    slow = replace(recipe, schedule=replace(recipe.schedule, warmup_iterations=1000))
    notes: list[str] = []
    given = options(folder, tmp_path / "run")
    train(slow, replace(given, iterations=2))
    again = replace(given, resume=True)
    train(slow, replace(again, iterations=2), Reports(on_note=notes.append))
    why = "the warm-up was shortened to fit into the run, and a longer run would have a longer one"
    assert f"all 2 iterations are done; {why}" in notes[-1]
    assert "--resume with a larger" not in notes[-1]
    with pytest.raises(ConfigError, match=rf"schedule\.warmup_iterations: 1 then, 2 now\); {why}"):
        train(slow, replace(again, iterations=3))


def test_the_package_offers_the_function_itself() -> None:
    assert condinst_deploy.train is train
