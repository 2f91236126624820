"""The training loop: it learns, it repeats bit for bit, and an interruption costs nothing."""

import json
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from condinst_deploy.data.analysis import analyse
from condinst_deploy.data.annotation_checks import checked_segmentation, merged_rle
from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.errors import CheckpointError, ConfigError, DataError, OutputError
from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.model.losses import Losses
from condinst_deploy.support.folder_lock import locked_folder
from condinst_deploy.training import trainer
from condinst_deploy.training.batches import batches
from condinst_deploy.training.history import Record
from condinst_deploy.training.order import batch_keys
from condinst_deploy.training.recipe import (
    Recipe,
    ScheduleSettings,
    load_recipe,
)
from condinst_deploy.training.run import TrainingRun
from condinst_deploy.training.run_start import fine_tuning_run, resumed_run
from condinst_deploy.training.trainer import Reports, Sets, evaluate, manifest_for, open_sets, train, with_classes
from tests.support.models import TINY
from tests.support.recipes import tiny_recipe
from tests.support.training_runs import run_of

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return open_sets(recipe_of(tmp_path_factory.mktemp("shapes")))


def recipe_of(folder: Path) -> Recipe:
    recipe = tiny_recipe(generate_shapes(folder, "train", 10), generate_shapes(folder, "val", 4), 96)
    return replace(
        recipe,
        optimizer=replace(recipe.optimizer, clip_norm=10.0),
        schedule=ScheduleSettings(iterations=6, batch_size=3, warmup_iterations=2, steps=(5,)),
        short_sides=(64, 96),
        evaluate_every=4,
        checkpoint_every=2,
        log_every=1,
    )


@pytest.fixture
def recipe(sets: Sets) -> Recipe:
    return recipe_of(sets.train.annotations.parent)


def quiet(on_step: Callable[[int, Losses], None] = lambda iteration, losses: None) -> Reports:
    return Reports(on_step, lambda done, of: None, lambda record: None)


def interrupt_at(when: int) -> Callable[[int, Losses], None]:
    def on_step(iteration: int, _losses: Losses) -> None:
        if iteration == when:
            raise KeyboardInterrupt

    return on_step


def same_weights(a: Path, b: Path) -> bool:
    left, right = load_model(a).model.state_dict(), load_model(b).model.state_dict()
    return all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize(
    ("kind", "base_width", "workers"),
    [("adamw", 8, 0), ("muon", 16, 2), ("sgd", 16, 0)],  # from a width of 16 on the layout is channels last
)
def test_an_interrupted_and_resumed_run_ends_with_the_same_weights(
    kind: Literal["adamw", "muon", "sgd"], base_width: int, workers: int, recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    recipe = replace(
        recipe,
        model=replace(recipe.model, base_width=base_width),
        data=replace(recipe.data, workers=workers),
        optimizer=replace(recipe.optimizer, kind=kind),
    )
    train(run_of(recipe, sets), sets, tmp_path / "whole", quiet())
    with pytest.raises(KeyboardInterrupt):
        train(run_of(recipe, sets), sets, tmp_path / "parts", quiet(interrupt_at(3)))
    resumed = resumed_run(recipe, tmp_path / "parts" / "last.pth", CPU)
    assert resumed.iteration == 3
    train(resumed, sets, tmp_path / "parts", quiet())
    assert same_weights(tmp_path / "whole" / "model.pth", tmp_path / "parts" / "model.pth")
    lines = [(tmp_path / name / "history.jsonl").read_text().splitlines() for name in ("whole", "parts")]
    whole, parts = ([json.loads(line) | {"seconds": 0} for line in part] for part in lines)
    assert whole == parts


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_one_line_and_leaves_a_checkpoint(workers: int, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    recipe = replace(recipe, data=replace(recipe.data, workers=workers), checkpoint_every=1000)
    sets = open_sets(recipe)
    run = run_of(recipe, sets)
    keys = [key for batch in batch_keys(len(sets.train), 3, recipe.seed, 0, 3) for key in batch]
    sets.train.paths[keys[-1][1]].write_bytes(b"no image")
    first = next(i for i, key in enumerate(keys) if key[1] == keys[-1][1]) // 3
    with pytest.raises(DataError, match=r"^[^\n]*is not an image in a known format[^\n]*$"):
        train(run, sets, tmp_path / "run", quiet())
    assert run.iteration == first
    assert resumed_run(recipe, tmp_path / "run" / "last.pth", CPU).iteration == first


def test_an_error_ends_the_processes_that_prepare_images(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    recipe = replace(recipe, data=replace(recipe.data, workers=1))

    def gone(iteration: int, _losses: Losses) -> None:
        assert multiprocessing.active_children()
        shutil.rmtree(tmp_path / "run")

    with locked_folder(tmp_path / "run"), pytest.raises(OutputError, match="run was removed") as held:
        train(run_of(recipe, sets), sets, tmp_path / "run", quiet(gone))
    # they ignore signals, so Python would wait for them at its end as long as something holds the error
    assert held.value is not None
    assert multiprocessing.active_children() == []
    assert not (tmp_path / "run").exists()


def test_evaluations_are_made_when_the_recipe_says_so(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    for every, expected in ((0, [6]), (2, [2, 4, 6])):
        folder = tmp_path / str(every)
        train(run_of(replace(recipe, evaluate_every=every), sets), sets, folder, quiet())
        records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
        assert [record["iteration"] for record in records if "segm/ap" in record] == expected


def test_a_run_ends_after_so_many_evaluations_without_a_better_one(
    monkeypatch: pytest.MonkeyPatch, recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    """The scores of its evaluations are given; the fourth is the second in a row that is not better."""
    scores = {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.3, 5: 0.9, 6: 0.9}

    def evaluate(run: TrainingRun, *_: Any) -> Record:
        return {"iteration": run.iteration, "segm/ap": scores[run.iteration], "bbox/ap": 0.0}

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    patient = replace(recipe, patience=2, evaluate_every=1)
    notes: list[str] = []
    reported = Reports(on_note=notes.append)
    run = run_of(patient, sets)
    last, best = train(run, sets, tmp_path / "run", reported)
    assert last == {"iteration": 4, "segm/ap": 0.3, "bbox/ap": 0.0}
    assert best == last | {"iteration": 2}
    assert run.iteration == 4
    assert notes == [
        "stopped at iteration 4: 2 evaluations without a better mask AP; the best model is"
        f" {tmp_path / 'run' / 'best.pth'}"
    ]
    records = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [record["segm/ap"] for record in records if "segm/ap" in record] == [0.1, 0.3, 0.2, 0.3]
    resumed = resumed_run(patient, tmp_path / "run" / "last.pth", CPU)
    train(resumed, sets, tmp_path / "run", reported)
    assert (resumed.iteration, len(notes)) == (4, 2)  # it has ended, and says so again
    assert train(run_of(replace(patient, patience=3), sets), sets, tmp_path / "longer", reported).last["iteration"] == 6


def test_the_last_losses_are_kept_whatever_the_interval(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    train(run_of(replace(recipe, log_every=4), sets), sets, tmp_path, quiet())
    records = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [record["iteration"] for record in records if "loss/total" in record] == [4, 6]


def test_another_seed_gives_other_weights(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    for seed in (0, 1):
        train(run_of(replace(recipe, seed=seed), sets), sets, tmp_path / str(seed), quiet())
    assert not same_weights(tmp_path / "0" / "model.pth", tmp_path / "1" / "model.pth")


def test_a_finished_run_leaves_everything_to_look_at(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    metrics = train(run_of(recipe, sets), sets, tmp_path, quiet()).last
    assert metrics["iteration"] == 6
    assert 0 <= metrics["segm/ap"] <= 1
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("last.pth", "last-1.pth", "best.pth", "model.pth", "recipe.toml"),
        *("history.jsonl", "curves.png", "predictions.jpg", "tensorboard"),
    }
    kept = load_recipe(str(tmp_path / "recipe.toml"))
    assert kept == recipe
    loaded = load_model(tmp_path / "model.pth")
    assert loaded.manifest.class_names == sets.train.class_names
    assert load_model(tmp_path / "last.pth").manifest.class_names == loaded.manifest.class_names


def test_a_tiny_model_overfits_one_batch(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    schedule = ScheduleSettings(iterations=40, batch_size=2, warmup_iterations=5, decay="cosine")
    short = replace(recipe, schedule=schedule, short_sides=(96,), flip=0.0, evaluate_every=1000)
    totals: list[float] = []
    few = Sets(sets.val, sets.val)
    train(run_of(short, few), few, tmp_path, quiet(lambda _, losses: totals.append(float(losses.total))))
    assert np.mean(totals[-5:]) < 0.8 * np.mean(totals[:5])


def test_resuming_with_another_recipe_names_what_differs(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    run_of(recipe, sets).save(tmp_path / "last.pth")
    with pytest.raises(ConfigError, match=r"it differs in flip: 0\.5 then, 0\.1 now; seed: 0 then, 9 now\)"):
        resumed_run(replace(recipe, seed=9, flip=0.1), tmp_path / "last.pth", CPU)


@pytest.mark.parametrize("way", ["cosine", "late iterations"])
def test_a_finished_run_becomes_longer_where_its_iterations_stay_the_same(
    way: str, recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    run = run_of(recipe, sets)
    run.iteration = 6
    run.save(tmp_path / "last.pth")
    assert resumed_run(recipe.of_length(9), tmp_path / "last.pth", CPU).recipe.schedule.iterations == 9
    with pytest.raises(ConfigError, match=r"it differs in seed: 0 then, 5 now\); resume with the same one"):
        resumed_run(replace(recipe.of_length(9), seed=5), tmp_path / "last.pth", CPU)  # nothing of the length
    with pytest.raises(ConfigError, match="has done 6 iterations, and the run is to have 4; expected at least 6"):
        resumed_run(recipe.of_length(4), tmp_path / "last.pth", CPU)
    fixed = {
        "cosine": replace(recipe, schedule=replace(recipe.schedule, decay="cosine")),
        "late iterations": replace(recipe, late_iterations=2, late_short_sides=(64,)),
    }[way]
    run_of(fixed, sets).save(tmp_path / "last.pth")
    with pytest.raises(ConfigError, match=r"schedule\.iterations: 6 then, 9 now.* the length cannot change: a decay"):
        resumed_run(fixed.of_length(9), tmp_path / "last.pth", CPU)


def test_a_run_that_became_longer_ends_as_one_that_was_as_long_from_the_start(
    recipe: Recipe, sets: Sets, tmp_path: Path
) -> None:
    longer = recipe.of_length(8)
    train(run_of(longer, sets), sets, tmp_path / "whole", quiet())
    train(run_of(recipe, sets), sets, tmp_path / "parts", quiet())
    train(resumed_run(longer, tmp_path / "parts" / "last.pth", CPU), sets, tmp_path / "parts", quiet())
    assert same_weights(tmp_path / "whole" / "model.pth", tmp_path / "parts" / "model.pth")


def test_a_place_of_data_may_be_written_in_another_way(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    run_of(recipe, sets).save(tmp_path / "last.pth")
    annotations = Path(recipe.data.train_annotations)
    again = str(annotations.parent / "." / ".." / annotations.parent.name / annotations.name)
    resumed_run(replace(recipe, data=replace(recipe.data, train_annotations=again)), tmp_path / "last.pth", CPU)
    other = replace(recipe, data=replace(recipe.data, train_annotations="other.json"))
    with pytest.raises(ConfigError, match=r"differs in data\.train_annotations: '.*' then, 'other\.json' now"):
        resumed_run(other, tmp_path / "last.pth", CPU)


def test_a_place_that_no_file_can_have_is_another_place(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    hostile = replace(recipe, data=replace(recipe.data, train_annotations="a\0b"))
    run_of(hostile, sets).save(tmp_path / "last.pth")
    with pytest.raises(ConfigError, match=r"it differs in data\.train_annotations: 'a\\x00b' then"):
        resumed_run(recipe, tmp_path / "last.pth", CPU)


def test_resuming_from_a_plain_model_is_an_error(slim_checkpoint: Path, recipe: Recipe) -> None:
    with pytest.raises(CheckpointError, match="not a training checkpoint"):
        resumed_run(recipe, slim_checkpoint, CPU)


def test_fine_tuning_keeps_all_but_a_class_layer_of_another_size(
    slim_checkpoint: Path, recipe: Recipe, sets: Sets
) -> None:
    source = load_model(slim_checkpoint).model.state_dict()
    manifest = manifest_for(recipe, sets)
    same = fine_tuning_run(recipe, manifest, slim_checkpoint, CPU)
    assert all(torch.equal(value, source[key]) for key, value in same.model.state_dict().items())
    five = replace(manifest, class_names=tuple("abcde"), category_ids=(1, 2, 3, 4, 5))
    other = fine_tuning_run(recipe, five, slim_checkpoint, CPU)
    changed = {key for key, value in other.model.state_dict().items() if not torch.equal(value, source[key])}
    assert changed == {"head.cls_logits.weight", "head.cls_logits.bias"}
    assert "is initialised for 5 classes" in other.note
    names = load_model(slim_checkpoint).manifest.class_names
    for given, said in ((names, False), (("x", "y", "z"), True)):
        run = fine_tuning_run(recipe, replace(manifest, class_names=given), slim_checkpoint, CPU)
        assert "all weights kept" in run.note
        assert ("for classes of other names" in run.note) is said


def test_losses_that_are_not_finite_stop_the_run(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    run = run_of(recipe, sets)
    with torch.no_grad():
        run.model.head.controller.weight.fill_(torch.nan)
    with pytest.raises(ConfigError, match="not finite"):
        train(run, sets, tmp_path, quiet())
    assert not (tmp_path / "last.pth").exists()  # nothing was learnt that is worth keeping


def test_losses_that_are_not_finite_later_leave_a_checkpoint_once(recipe: Recipe, sets: Sets, tmp_path: Path) -> None:
    def spoil(iteration: int, _losses: Losses) -> None:
        if iteration == 3:
            run.losses.register_forward_hook(lambda _m, _i, out: {key: x * torch.nan for key, x in out.items()})

    run = run_of(recipe, sets)
    with pytest.raises(ConfigError, match="the losses of iteration 3 are not finite"):
        train(run, sets, tmp_path, Reports(on_step=spoil))
    checkpoint = (tmp_path / "last.pth").read_bytes()
    run = resumed_run(recipe, tmp_path / "last.pth", CPU)
    assert run.iteration == 3
    spoil(3, Losses(torch.zeros(()), torch.zeros(()), torch.zeros(()), torch.zeros(())))
    with pytest.raises(ConfigError, match="the losses of iteration 3 are not finite"):
        train(run, sets, tmp_path, quiet())
    assert (tmp_path / "last.pth").read_bytes() == checkpoint


def test_residual_blocks_begin_as_the_identity_where_the_recipe_says_so(recipe: Recipe, sets: Sets) -> None:
    x = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    for zero_residual in (False, True):
        start = replace(recipe.start, zero_residual=zero_residual)
        block = run_of(replace(recipe, start=start), sets).model.backbone.get_submodule("layer1.0").eval()
        with torch.no_grad():
            assert torch.equal(block(x), x.relu()) is zero_residual


def test_the_last_iterations_see_the_late_sizes(recipe: Recipe, sets: Sets) -> None:
    late = replace(recipe, short_sides=(64,), late_short_sides=(96,), late_iterations=2)
    sizes = [batch.image_sizes.unique().tolist() for batch in batches(sets.train, late, first=2)]
    assert sizes == [[64], [64], [96], [96]]


@pytest.mark.parametrize(("key", "value"), [("id", 9), ("name", "blob")])
def test_sets_of_different_classes_are_refused(key: str, value: Any, tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    path = Path(recipe.data.val_annotations)
    content = json.loads(path.read_text())
    changed = content["categories"][2][key]
    content["categories"][2][key] = value
    for annotation in content["annotations"]:
        annotation["category_id"] = value if key == "id" and annotation["category_id"] == changed else 1
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="expected the same names and ids"):
        open_sets(recipe)


def test_a_validation_set_without_a_class_measures_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found of that class counts for nothing: AP is that of a set with the class and without its objects."""
    recipe = replace(recipe_of(tmp_path), evaluate_every=0)
    path = Path(recipe.data.val_annotations)
    content = json.loads(path.read_text())
    left_out = content["categories"][1]
    sizes = {each["id"]: (each["height"], each["width"]) for each in content["images"]}
    results = [
        {name: each[name] for name in ("image_id", "category_id", "bbox")}
        | {"segmentation": merged_rle(checked_segmentation(each["segmentation"], size, ""), size), "score": 0.9}
        for each in content["annotations"]
        for size in [sizes[each["image_id"]]]
    ]
    monkeypatch.setattr(trainer, "detect_all", lambda *_: results)
    content["annotations"] = [each for each in content["annotations"] if each["category_id"] != left_out["id"]]
    found = []
    for categories in (content["categories"], [each for each in content["categories"] if each is not left_out]):
        path.write_text(json.dumps(content | {"categories": categories}))
        sets = open_sets(recipe)
        found.append(evaluate(run_of(recipe, sets), sets, quiet()))
        warnings = analyse(sets.train, recipe.model.preprocessing, recipe.short_sides, sets.val).warnings
    assert found[0] == found[1]
    assert found[1]["segm/ap"] == pytest.approx(1)
    (warning,) = (str(each) for each in warnings if each.noun == "class")
    assert warning == (
        f"1 class of the training set that it does not name ({left_out['name']});"
        " AP is the mean over the classes that it names; condinst-eval needs all of them in its categories"
    )
    path.write_text(json.dumps(content | {"categories": [], "annotations": []}))
    with pytest.raises(DataError, match="has none: expected the same names and ids, or some of them"):
        open_sets(recipe)


def test_missing_data_says_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"set data\.train_annotations"):
        open_sets(Recipe())


def test_the_number_of_classes_comes_from_the_data(recipe: Recipe, sets: Sets) -> None:
    assert with_classes(replace(recipe, model=replace(TINY, num_classes=80)), sets).model.num_classes == 3
