"""The training loop: steps, evaluation, checkpoints, and images at the end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from condinst_deploy.contract import ModelManifest
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.errors import ConfigError, DataError, OutputError
from condinst_deploy.evaluation.coco import average_precision, detect_all, load_coco
from condinst_deploy.imaging.drawing import SHEET_SIDE, contact_sheet
from condinst_deploy.model.checkpoints import LoadedModel, save_model
from condinst_deploy.model.losses import Losses
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.torch_backend import TorchBackend
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.signals import whole_steps
from condinst_deploy.training.batches import batches
from condinst_deploy.training.history import History, Record, draw_curves
from condinst_deploy.training.recipe import Recipe
from condinst_deploy.training.run import TrainingRun

CHECKPOINT, MODEL, CURVES, SHEET = "last.pth", "model.pth", "curves.png", "predictions.jpg"
IMAGES_SHOWN = 12


@dataclass(frozen=True)
class Sets:
    """The training and the validation set."""

    train: CocoDataset
    val: CocoDataset


@dataclass(frozen=True)
class Reports:
    """Functions that are called while a run goes on."""

    on_step: Callable[[int, Losses], None] = lambda iteration, losses: None
    on_image: Callable[[int, int], None] = lambda done, of: None  # evaluation: images done, of how many
    on_evaluation: Callable[[Record], None] = lambda record: None
    on_stage: Callable[[str], None] = lambda stage: None  # what begins now, before the first step
    on_note: Callable[[str], None] = lambda note: None  # what a user should know
    on_generated: Callable[[int, int], None] = lambda done, of: None  # images of the generated set
    on_data: Callable[[Sets], None] = lambda sets: None  # the data sets were read
    on_start: Callable[[int, Recipe], None] = lambda iteration, recipe: None  # steps done before, and the final recipe
    on_interrupted: Callable[[int, Path], None] = lambda iteration, folder: None  # Ctrl-C; the checkpoint is written


def open_sets(recipe: Recipe) -> Sets:
    """Read the recipe's data sets.

    Raises:
        ConfigError: the recipe names none.
        DataError: one of them is malformed or incomplete, or they have different classes.
    """
    data = recipe.data
    if not (data.train_annotations and data.train_images and data.val_annotations and data.val_images):
        raise ConfigError(
            "the recipe names no data: set data.train_annotations, train_images, val_annotations and val_images,"
            " in the recipe or on the command line"
        )
    train = CocoDataset(
        Path(data.train_annotations), Path(data.train_images), training=True, keep_empty=data.keep_empty
    )
    val = CocoDataset(Path(data.val_annotations), Path(data.val_images), training=False)
    if (train.category_ids, train.class_names) != (val.category_ids, val.class_names):
        raise DataError(
            f"{data.train_annotations} has the classes {_listed(train)}; {data.val_annotations} has {_listed(val)}:"
            " expected the same names and ids"
        )
    return Sets(train, val)


def manifest_for(recipe: Recipe, sets: Sets) -> ModelManifest:
    """The manifest of a model of these classes."""
    return ModelManifest(
        class_names=sets.train.class_names,
        category_ids=sets.train.category_ids,
        family=recipe.model.family,
        preprocessing=recipe.model.preprocessing,
        selection=recipe.model.selection,
    )


def train(run: TrainingRun, sets: Sets, folder: Path, reports: Reports) -> Record:
    """Train to the end of the recipe; returns the figures of the last evaluation.

    A checkpoint is written every `checkpoint_every` iterations, at the end, and when the run is
    interrupted or meets a damaged image.
    """
    recipe = run.recipe
    last: Record = {}
    with History(folder, run.iteration) as history:
        started = time.perf_counter()
        try:
            for batch in batches(sets.train, recipe, run.iteration):
                with whole_steps():  # half a step would not be a checkpoint to go on from
                    losses = run.step(batch)
                if run.iteration % recipe.log_every == 0 or run.iteration == recipe.schedule.iterations:
                    history.add(_record(run, losses, time.perf_counter() - started))
                reports.on_step(run.iteration, losses)
                if run.iteration % recipe.checkpoint_every == 0:
                    run.save(folder / CHECKPOINT)
                if _is_evaluated(run):
                    last = evaluate(run, sets, reports)
                    history.add(last)
                    reports.on_evaluation(last)
        except (KeyboardInterrupt, DataError, OutputError):  # an image of thousands can be damaged, a disk full
            run.save(folder / CHECKPOINT)
            raise
        run.save(folder / CHECKPOINT)
        save_model(folder / MODEL, run.model, run.manifest)
        last = evaluate(run, sets, reports)
        history.add(last)
        reports.on_evaluation(last)
        draw_curves(history.records, folder / CURVES)
    draw_predictions(run, sets, folder / SHEET)
    return last


def evaluate(run: TrainingRun, sets: Sets, reports: Reports) -> Record:
    """Average precision on the validation set, on a 0..1 scale."""
    images = list(zip(sets.val.image_ids, sets.val.paths, strict=True))
    done = 0

    def on_image() -> None:
        nonlocal done
        done += 1
        reports.on_image(done, len(images))

    results = detect_all(_predictor(run), images, on_image)
    ground_truth = load_coco(sets.val.annotations)
    record: Record = {"iteration": run.iteration}
    for kind in ("bbox", "segm"):
        for name, value in average_precision(ground_truth, results, kind)._asdict().items():
            record[f"{kind}/{name}"] = value
    return record


def _is_evaluated(run: TrainingRun) -> bool:
    """Whether an evaluation follows this iteration; one follows the last in any case."""
    every = run.recipe.evaluate_every
    return every > 0 and run.iteration % every == 0 and run.iteration < run.recipe.schedule.iterations


def _listed(data: CocoDataset) -> str:
    return ", ".join(f"{i} {name}" for i, name in zip(data.category_ids, data.class_names, strict=True))


def draw_predictions(run: TrainingRun, sets: Sets, path: Path) -> None:
    """A sheet of validation images with the detections drawn."""
    shown = []
    for prediction in _predictor(run).stream(sets.val.paths[:IMAGES_SHOWN]):
        if prediction.detections is not None and prediction.image is not None:
            shown.append(prediction.detections.draw(prediction.image, longest_side=SHEET_SIDE))
    with atomic_path(path) as temporary:
        contact_sheet(shown).save(temporary, format="JPEG", quality=90)


def _predictor(run: TrainingRun) -> Predictor:
    run.model.eval()
    backend = TorchBackend(LoadedModel(run.model, run.manifest, "the model in training"), run.device)
    return Predictor(backend, batch_size=8)


def _record(run: TrainingRun, losses: Losses, seconds: float) -> Record:
    record: Record = {"iteration": run.iteration, "seconds": round(seconds, 1)}
    record["learning_rate"] = run.optimizer.param_groups[0]["lr"]
    record["loss/total"] = float(losses.total)
    return record | {f"loss/{name}": float(value) for name, value in losses.terms.items()}


def with_classes(recipe: Recipe, sets: Sets) -> Recipe:
    """The recipe for the data set's number of classes."""
    return replace(recipe, model=replace(recipe.model, num_classes=len(sets.train.class_names)))
