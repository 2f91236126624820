"""Train a model: recipe and data -> a folder with checkpoint, model, curves and metrics."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from condinst_deploy.data.analysis import analyse
from condinst_deploy.data.data_report import DataReport
from condinst_deploy.data.shapes_dataset import TRAIN_COUNT, VAL_COUNT, ShapesConfig, generate_shapes
from condinst_deploy.errors import ConfigError
from condinst_deploy.model.checkpoints import LoadedModel, load_model
from condinst_deploy.runtime.torch_backend import torch_device
from condinst_deploy.shown_text import counted, quoted_if_odd, shown
from condinst_deploy.support.atomic_write import check_writable
from condinst_deploy.support.folder_lock import locked_folder
from condinst_deploy.support.option_types import checked_arguments
from condinst_deploy.training import trainer
from condinst_deploy.training.data_record import DATA_FILE, DataRecord, compared, data_record, write_record
from condinst_deploy.training.history import HISTORY_FILE, Record, is_evaluation, read_history
from condinst_deploy.training.preview import Preview, preview
from condinst_deploy.training.ranks import ALONE, Ranks, connected, device_of, ranks_from_environment
from condinst_deploy.training.recipe import Recipe, load_recipe
from condinst_deploy.training.recipe_names import sizes_named
from condinst_deploy.training.run import TrainingRun
from condinst_deploy.training.run_start import (
    FIXED_LENGTH,
    SHORT_WARM_UP,
    can_change_length,
    check_start,
    fine_tuning_run,
    new_run,
    resumed_run,
)
from condinst_deploy.training.store import BEST, CHECKPOINT, CheckpointStore, Found
from condinst_deploy.training.train_options import PLACES, TrainOptions
from condinst_deploy.training.trainer import Reports, Sets

TrainReports = Reports
"""`Reports`, as the package names it."""

SHAPES_FOLDER = Path("data/shapes")
"""Folder of the generated data set, relative to the current directory."""


@dataclass(frozen=True)
class TrainedModel:
    """Result of a run.

    Attributes:
        folder: folder of the run, absolute.
        model: the model's file in it.
        metrics: of the last evaluation; average precision from 0 to 1, for example `segm/ap`.
        best_model: the file of the model with the highest mask AP (box AP without masks); None: nothing is annotated.
        best: metrics of its evaluation.
    """

    folder: Path
    model: Path
    metrics: Record
    best_model: Path | None = None
    best: Record | None = None


@checked_arguments
def train(
    recipe: str | Path | Recipe, options: TrainOptions | None = None, reports: Reports | None = None
) -> TrainedModel:
    """Train a CondInst model to the end of its recipe.

    The folder of the run gets last.pth (checkpoint), best.pth, model.pth, recipe.toml, data.json, history.jsonl,
    TensorBoard scalars, curves.png and predictions.jpg. A recipe with `data.shapes` generates its data (375 MB) in
    data/shapes below the current directory. In processes that torchrun started this trains together with the others,
    which all call it with the same arguments.

    Args:
        recipe: name of a recipe of the package, path of a TOML file, or a recipe; one that is not read from a file
            needs `options.out`.
        options: what differs from the recipe, where the run starts, and where it writes.
        reports: functions that are called while the run goes on.

    Raises:
        ConfigError: a setting cannot be used, or the folder holds another run.
        CheckpointError: weights cannot be loaded.
        DataError: the data set is malformed or incomplete.
        DistributedError: another process of a run on several failed, or is lost.
        KeyboardInterrupt: Ctrl-C; the checkpoint was written, and `options.resume` continues the run.
    """
    options, reports = options or TrainOptions(), reports or Reports()
    folder, ranks = _folder(recipe, options), ranks_from_environment()
    chosen, start = _read(recipe, options, folder)
    device = device_of(ranks, torch_device(options.device))
    if not ranks.first:
        reports = Reports()
    with connected(ranks, device, chosen.execution.timeout, options.meeting):
        return _train(chosen, options, reports, folder, Place(ranks, device, start))


def check(recipe: str | Path | Recipe, options: TrainOptions | None = None, reports: Reports | None = None) -> Preview:
    """Look at recipe and data, draw examples and time a few steps, without training.

    Args: as `train`. The folder of the run gets a sheet of examples, and nothing else.

    Raises:
        ConfigError, CheckpointError, DataError: what would stop `train` before its first step.
    """
    options, reports = options or TrainOptions(), reports or Reports()
    if ranks_from_environment().size > 1:
        raise ConfigError("--check runs in one process; start it without torchrun")
    folder = _folder(recipe, options)
    chosen, start = _read(recipe, options, folder)
    place = Place(ALONE, torch_device(options.device), start, trains=False)
    if not options.resume and (problem := _has_run(folder)):
        reports.on_note(f"{problem}; this check changes nothing there")
    run, sets, report = _prepared(chosen, options, reports, folder, place)
    return preview(run, sets.train, report, folder)


@dataclass
class Start:
    """Weights that a run starts from; they are read once."""

    checkpoint: Found | None = None  # that the run resumes
    weights: LoadedModel | None = None  # that are fine-tuned; the checkpoint's, if its model was built already

    def released(self) -> "Start":
        """Return the weights and forget them here, so that they do not stay in memory during the run."""
        taken = replace(self)
        self.checkpoint = self.weights = None
        return taken


class Place(NamedTuple):
    """Ranks and device of this process, and the weights that it starts from."""

    ranks: Ranks
    device: torch.device
    start: Start
    trains: bool = True  # False: the run is only looked at


def _read(recipe: str | Path | Recipe, options: TrainOptions, folder: Path) -> tuple[Recipe, Start]:
    """The recipe, and the weights; sizes that the recipe's file does not name are those of the weights."""
    chosen = recipe if isinstance(recipe, Recipe) else load_recipe(str(recipe))
    start = Start()
    if options.resume:  # what was fine-tuned has the sizes already
        start = Start(checkpoint=CheckpointStore(folder, chosen.keep_checkpoints).newest())
    elif options.weights is not None:
        start = Start(weights=load_model(options.weights))
    if start.checkpoint is not None and not isinstance(recipe, Recipe):
        start.weights = load_model(start.checkpoint.path, content=start.checkpoint.content)
    if isinstance(recipe, Recipe) or start.weights is None:
        return chosen, start
    inference, training = sizes_named(str(recipe))
    return chosen.with_sizes_of(start.weights.model.config, inference=not inference, training=not training), start


def _train(recipe: Recipe, options: TrainOptions, reports: Reports, folder: Path, place: Place) -> TrainedModel:
    ranks, found = place.ranks, place.start.checkpoint
    damaged = () if found is None else found.damaged
    del found  # its content does not stay in memory during the run
    run, sets, _ = _prepared(recipe, options, reports, folder, place)
    reports.on_start(run.iteration, run.recipe)
    try:
        with ExitStack() as stack:
            ranks.on_first(lambda: stack.enter_context(locked_folder(folder)))
            ranks.on_first(lambda: CheckpointStore(folder, recipe.keep_checkpoints).set_aside(damaged))
            ranks.on_first(lambda: _write_data(run, folder))
            last, best = trainer.train(run, sets, folder, reports)
    except KeyboardInterrupt:
        reports.on_interrupted(run.iteration, folder)
        raise
    folder = folder.absolute()
    return TrainedModel(folder, folder / trainer.MODEL, last, None if best is None else folder / BEST, best)


def _prepared(
    recipe: Recipe, options: TrainOptions, reports: Reports, folder: Path, place: Place
) -> tuple[TrainingRun, Sets, DataReport]:
    """The run before its next step, its data, and what was found in the training set."""
    ranks = place.ranks
    ranks.on_first(lambda: check_writable(folder / CHECKPOINT))
    changed = _changed(recipe, options, reports)
    if place.start.checkpoint is None and options.weights is None:
        check_start(changed.start)  # before the data is read
    placed = ranks.on_first(lambda: _with_data(changed, options, reports))
    reports.on_stage("reading the data")
    sets = ranks.in_each(lambda: trainer.open_sets(placed))
    chosen = trainer.with_classes(placed, sets)
    if options.num_classes not in (None, chosen.model.num_classes):
        raise ConfigError(
            f"--num-classes is {options.num_classes}; the data set has {counted(chosen.model.num_classes, 'class')}"
        )
    reports.on_data(sets)
    if sets.val.boxes_only:
        reports.on_note(f"{sets.val.annotations} has no masks: box AP alone is measured, and selects the best model")
    report = ranks.on_first(lambda: _look_at(sets, chosen, options.strict, reports))
    run = ranks.in_each(lambda: _started(chosen, sets, folder, options, place))
    if run.iteration == run.recipe.schedule.iterations:
        run.note += f"; {_finished(recipe, run.recipe)}"
    data = ranks.on_first(lambda: data_record(sets.train, sets.val))
    ranks.in_each(lambda: _use_data(run, data, folder))
    if run.note:
        reports.on_note(run.note)
    return run, sets, report


def _look_at(sets: Sets, recipe: Recipe, strict: bool, reports: Reports) -> DataReport:
    """Report what is in the training set; refuse what cannot be right, and with `strict` what is odd."""
    reports.on_stage("looking at the training data")
    sides = recipe.short_sides + recipe.late_short_sides
    report = analyse(sets.train, recipe.model.preprocessing, sides, sets.val)
    for line in report.text(errors=False, warnings=not strict).splitlines():
        reports.on_note(line)
    report.check(strict)
    return report


def _folder(recipe: str | Path | Recipe, options: TrainOptions) -> Path:
    if options.out is not None:
        return options.out
    if isinstance(recipe, Recipe):
        raise ConfigError("a recipe that was not read from a file has no name; expected a folder in TrainOptions.out")
    return Path("runs") / Path(recipe).stem


def _changed(recipe: Recipe, options: TrainOptions, reports: Reports) -> Recipe:
    """The recipe with what the options set instead."""
    length = recipe.schedule.iterations if options.iterations is None else options.iterations
    fitting = recipe.of_length(length)
    before, after = recipe.schedule.warmup_iterations, fitting.schedule.warmup_iterations
    if after < before:
        reports.on_note(f"warm-up shortened from {before} to {after} iterations: the run has only {length}")
    recipe = fitting
    if options.backbone is not None:
        recipe = replace(recipe, start=replace(recipe.start, backbone=str(options.backbone)))
    return recipe if options.seed is None else replace(recipe, seed=options.seed)


def _with_data(recipe: Recipe, options: TrainOptions, reports: Reports) -> Recipe:
    """The recipe with the places of its data; the generated set is generated unless it is there."""
    places: dict[str, Any] = options.places
    if recipe.data.shapes and len(places) < len(PLACES):
        config, report = ShapesConfig(), reports.on_generated
        train = generate_shapes(SHAPES_FOLDER, "train", TRAIN_COUNT, config, report)
        val = generate_shapes(SHAPES_FOLDER, "val", VAL_COUNT, config, report)
        data = replace(
            recipe.data,
            train_annotations=str(train),
            train_images=str(SHAPES_FOLDER / "train"),
            val_annotations=str(val),
            val_images=str(SHAPES_FOLDER / "val"),
        )
        recipe = replace(recipe, data=data)
    return replace(recipe, data=replace(recipe.data, **places))


def _has_run(folder: Path) -> str:
    """Why a new run cannot begin in a folder; "" where it can."""
    path = folder / CHECKPOINT
    return f"{path} exists: go on with --resume, or name another folder with --out" if path.exists() else ""


def _named(class_names: Sequence[str]) -> str:
    return shown(", ".join(map(quoted_if_odd, class_names)), 1000)


def _use_data(run: TrainingRun, now: DataRecord, folder: Path) -> None:
    """Give a run the record of its data; a resumed one is compared with it first."""
    if run.iteration:
        records = read_history(folder / HISTORY_FILE)
        evaluated = any(is_evaluation(each) and each["iteration"] <= run.iteration for each in records)
        if note := compared(run.data, now, evaluated=evaluated):
            run.note += f"; {note}"
    run.data = now


def _write_data(run: TrainingRun, folder: Path) -> None:
    if run.data is not None:
        write_record(run.data, folder / DATA_FILE)


def _finished(asked: Recipe, recipe: Recipe) -> str:
    """What to say of a run that has done all its iterations; `asked` is its recipe before it was fitted to a length."""
    done = f"the run is finished, all {counted(recipe.schedule.iterations, 'iteration')} are done"
    is_shortened = recipe.schedule.warmup_iterations < asked.schedule.warmup_iterations
    if can_change_length(recipe) and not is_shortened:
        return f"{done}: --resume with a larger --iterations continues it"
    why = SHORT_WARM_UP if is_shortened else FIXED_LENGTH
    return f"{done}; {why}: to train longer, start a new run in another folder with --weights"


def _started(recipe: Recipe, sets: Sets, folder: Path, options: TrainOptions, place: Place) -> TrainingRun:
    """A new run, one from trained weights, or the one in the folder."""
    manifest, ranks, device = trainer.manifest_for(recipe, sets), place.ranks, place.device
    start = place.start.released()
    if start.checkpoint is not None:
        checkpoint, note, content, _ = start.checkpoint
        run = resumed_run(recipe, checkpoint, device, ranks, content, start.weights)
        if run.manifest.class_names != manifest.class_names:
            raise ConfigError(
                f"{checkpoint} was trained on the classes {_named(run.manifest.class_names)}, and the"
                f" data set has {_named(manifest.class_names)}; resume with the same data"
            )
        run.note = f"resumed at iteration {run.iteration}" + (f": {note}" if note else "")
        return run
    if place.trains and (problem := _has_run(folder)):
        raise ConfigError(problem)
    if options.weights is not None:
        return fine_tuning_run(recipe, manifest, options.weights, device, ranks, start.weights)
    return new_run(recipe, manifest, device, ranks)
