"""The training loop: steps, evaluation, checkpoints, and images at the end."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from signal import SIGTERM

from condinst_deploy.contract import ModelManifest
from condinst_deploy.data.coco import CocoDataset, evaluation_set
from condinst_deploy.data.coco_file import coco_content, has_masks
from condinst_deploy.data.transforms import TrainingBatch
from condinst_deploy.errors import CondInstError, ConfigError, DataError, DistributedError, OutputError
from condinst_deploy.evaluation.coco_metrics import Entry, Kind, average_precision, detect_all, load_coco
from condinst_deploy.imaging.drawing import SHEET_SIDE, write_sheet
from condinst_deploy.model.checkpoints import LoadedModel, save_model
from condinst_deploy.model.losses import Losses
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.torch_backend import TorchBackend
from condinst_deploy.shown_text import quoted_if_odd, shown
from condinst_deploy.support.signals import Interruption, Stopped, received, whole_steps
from condinst_deploy.training.batches import PROBLEMS, batches
from condinst_deploy.training.history import (
    NO_SCORE,
    Evaluations,
    History,
    Record,
    best_of,
    draw_curves,
    is_evaluation,
    score_of,
)
from condinst_deploy.training.recipe import Recipe
from condinst_deploy.training.recipe_file import write_recipe
from condinst_deploy.training.run import LossesNotFinite, TrainingRun
from condinst_deploy.training.shared_progress import OthersStopped, SharedProgress
from condinst_deploy.training.store import BEST, CheckpointStore

MODEL, CURVES, SHEET, RECIPE = "model.pth", "curves.png", "predictions.jpg", "recipe.toml"
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
        DataError: one of them is malformed or incomplete, or the validation set has other classes.
    """
    data = recipe.data
    if not (data.train_annotations and data.train_images and data.val_annotations and data.val_images):
        raise ConfigError(
            "the recipe names no data: set data.train_annotations, train_images, val_annotations and val_images,"
            " in the recipe or on the command line"
        )
    train = _training_set(recipe)
    val = evaluation_set(Path(data.val_annotations), Path(data.val_images))
    known, named = (set(zip(each.category_ids, each.class_names, strict=True)) for each in (train, val))
    if not named <= known or (known and not named):
        raise DataError(
            f"{data.train_annotations} has the classes {_listed(train)}; {data.val_annotations} has"
            f" {_listed(val) or 'none'}: expected the same names and ids, or some of them"
        )
    return Sets(train, val)


def _training_set(recipe: Recipe) -> CocoDataset:
    data, boxes_only = recipe.data, recipe.losses.kind == "boxinst"
    content = coco_content(Path(data.train_annotations))
    if not boxes_only and not has_masks(content):
        raise DataError(
            f"{data.train_annotations} has no masks: no annotation has a segmentation; expected polygons or RLEs, or"
            ' losses.kind = "boxinst" in the recipe, which learns from boxes'
        )
    return CocoDataset(
        Path(data.train_annotations),
        Path(data.train_images),
        training=True,
        keep_empty=data.keep_empty,
        boxes_only=boxes_only,
        content=content,
    )


def manifest_for(recipe: Recipe, sets: Sets) -> ModelManifest:
    """The manifest of a model of these classes."""
    return ModelManifest(
        class_names=sets.train.class_names,
        category_ids=sets.train.category_ids,
        family=recipe.model.family,
        preprocessing=recipe.model.preprocessing,
        selection=recipe.model.selection,
    )


def train(run: TrainingRun, sets: Sets, folder: Path, reports: Reports) -> Evaluations:
    """Train to the end of the recipe; returns the metrics of the last and of the best evaluation.

    A checkpoint is written every `checkpoint_every` iterations, before every evaluation, at the end, and when the run
    is interrupted, meets a damaged image or losses that are not finite, or loses one of its processes. The first
    process writes; where it is the one that is lost, another one writes. A run that stopped in an evaluation evaluates
    before its next step.

    Raises:
        ConfigError: the losses are not finite.
        DataError: an image is damaged.
        PreparationError: a process that prepares images was killed, or shared memory is full.
        OutputError: a file cannot be written.
        DistributedError: another process failed, or is lost.
        KeyboardInterrupt: a signal asked this process or another one to stop.
    """
    store, began = CheckpointStore(folder, run.recipe.keep_checkpoints), run.iteration
    try:
        with ExitStack() as stack:
            # several processes stop together: a signal takes effect where they agree on it
            several = run.ranks.size > 1
            interruption = stack.enter_context(whole_steps()) if several else Interruption()
            history = stack.enter_context(History(folder, run.iteration, run.recipe.tensorboard, run.ranks.first))
            loader = stack.enter_context(closing(batches(sets.train, run.recipe, run.iteration, run.ranks)))
            return _Training(run, sets, folder, reports, store, history, interruption, loader).to_the_end()
    except (KeyboardInterrupt, *PROBLEMS, OutputError) as e:  # an image of thousands can be damaged, a disk full
        if isinstance(e, KeyboardInterrupt):
            run.average_statistics()
        if run.ranks.first:
            store.add(run.save)
        raise
    except LossesNotFinite:
        run.average_statistics()
        if run.ranks.first and run.iteration > began:  # repeated attempts must not push out the earlier checkpoints
            store.add(run.save)
        raise
    except DistributedError:
        run.ranks.abandon()
        run.undo()
        if run.ranks.first:
            store.add(run.save)
        else:
            store.add_alone(run.save, run.iteration)
        raise


@dataclass
class _Training:
    """The loop and what it needs."""

    run: TrainingRun
    sets: Sets
    folder: Path
    reports: Reports
    store: CheckpointStore
    history: History
    interruption: Interruption
    loader: Iterator[TrainingBatch]

    def to_the_end(self) -> Evaluations:
        run = self.run
        self._first(lambda: write_recipe(run.recipe, self.folder / RECIPE))
        started = time.perf_counter()
        if _is_evaluated(run) and self._last_evaluation() is None:  # the run stopped in it
            self._evaluate()
        while run.iteration < run.recipe.schedule.iterations and not self._has_enough():
            parts = self._parts()
            with whole_steps():  # half a step would not be a checkpoint to go on from
                losses = run.step(*parts)
            self._after_step(losses, started)
        run.average_statistics()
        self._save()
        self._first(lambda: save_model(self.folder / MODEL, run.evaluated, run.manifest))
        last = self._last_evaluation() or self._evaluate()
        self._first(lambda: draw_predictions(run, self.sets, self.folder / SHEET))
        return Evaluations(last, best_of(self.history.records))

    def _parts(self) -> list[TrainingBatch]:
        """The next step's batches, where all processes have theirs and none wants to stop.

        Raises:
            DataError, PreparationError, DistributedError: this process or another one has a damaged image, or no
                memory for its batch.
            KeyboardInterrupt: a signal came, here or there.
        """
        parts: list[TrainingBatch] = []
        problem = None
        try:
            parts = list(islice(self.loader, self.run.recipe.execution.accumulate))
        except PROBLEMS as e:
            problem = e
        failed, stop = self.run.ranks.any((int(problem is not None), int(self.interruption.wanted)))
        if failed:
            self.run.ranks.agree(problem)
        if stop:
            raise Stopped(received() or SIGTERM)
        return parts

    def _after_step(self, losses: Losses, started: float) -> None:
        run, recipe = self.run, self.run.recipe
        ends = run.iteration == recipe.schedule.iterations
        if run.iteration % recipe.log_every == 0 or ends:
            seconds = time.perf_counter() - started
            self._first(lambda: self.history.add(_record(run, losses, seconds)))
        self.reports.on_step(run.iteration, losses)
        evaluated = _is_evaluated(run)
        if run.iteration % recipe.checkpoint_every == 0 or evaluated:
            self._save()
        if evaluated:
            self._evaluate()

    def _save(self) -> None:
        self.run.average_statistics()
        self._first(lambda: self.store.add(self.run.save))
        self._first(self._draw_curves)

    def _evaluate(self) -> Record:
        """Evaluate; keep the model if it is the best so far."""
        run = self.run
        record = evaluate(run, self.sets, self.reports, self.interruption)
        best = best_of(self.history.records)
        if score_of(record) > (NO_SCORE if best is None else score_of(best)):
            if best is None:
                self._first(self._keep_unknown_best)
            self._first(lambda: save_model(self.folder / BEST, run.evaluated, run.manifest))
        self._first(lambda: self.history.add(record))
        if not run.ranks.first:
            self.history.records.append(record)
        self._first(self._draw_curves)
        self.reports.on_evaluation(record)
        return record

    def _keep_unknown_best(self) -> None:
        kept = self.store.keep_best()
        if kept is not None:
            self.reports.on_note(
                f"the history in {self.folder} has no evaluation of the {BEST} that is there: it is kept as {kept.name}"
            )

    def _draw_curves(self) -> None:
        draw_curves(self.history.records, self.folder / CURVES)

    def _scores(self) -> list[float]:
        return [score_of(record) for record in self.history.records if is_evaluation(record)]

    def _has_enough(self) -> bool:
        """Return whether the run ends early; a resumed run also counts the evaluations before it."""
        patience = self.run.recipe.patience
        scores = self._scores()
        stale = len(scores) - 1 - scores.index(max(scores)) if scores else 0
        enough = 0 < patience <= stale
        if enough:
            name = "box AP" if self.sets.val.boxes_only else "mask AP"
            self.reports.on_note(
                f"stopped at iteration {self.run.iteration}: {stale} evaluations without a better {name};"
                f" the best model is {self.folder / BEST}"
            )
        return enough

    def _last_evaluation(self) -> Record | None:
        """The evaluation of this iteration; None: it was not evaluated."""
        records = [record for record in self.history.records if is_evaluation(record)]
        return records[-1] if records and records[-1]["iteration"] == self.run.iteration else None

    def _first(self, function: Callable[[], object]) -> None:
        """Have the first process write something; all fail where it fails."""
        self.run.ranks.on_first(lambda: (function(), None)[1])


def evaluate(run: TrainingRun, sets: Sets, reports: Reports, interruption: Interruption | None = None) -> Record:
    """Average precision on the validation set, on a 0..1 scale; each process detects in its share of the images.

    If the validation set has no masks, that of boxes alone. The processes ask each other every `IMAGES_APART` images
    whether all go on, so that none detects to the end where another one failed, is lost or was asked to stop.

    Raises:
        ImageError: an image cannot be read.
        DistributedError: another process failed, or is lost.
        KeyboardInterrupt: a signal came, here or in another process.
    """
    ranks = run.ranks
    images = list(zip(sets.val.image_ids, sets.val.paths, strict=True))
    own = images[ranks.rank :: ranks.size]
    progress = SharedProgress(ranks, len(images) // ranks.size, interruption or Interruption())

    def on_image() -> None:
        progress.one_more()
        reports.on_image(progress.done, len(own))

    def detect() -> list[Entry]:
        try:
            return detect_all(_predictor(run), own, on_image)
        except OthersStopped:
            return []
        except DistributedError:
            raise
        except CondInstError:
            progress.failed()
            raise

    shares = ranks.gathered(ranks.in_each(detect))
    return ranks.on_first(lambda: _metrics(run.iteration, sets, [entry for share in shares for entry in share]))


def _metrics(iteration: int, sets: Sets, results: list[Entry]) -> Record:
    ground_truth = load_coco(sets.val.annotations, boxes_only=sets.val.boxes_only)
    record: Record = {"iteration": iteration}
    kinds: tuple[Kind, ...] = ("bbox",) if sets.val.boxes_only else ("bbox", "segm")
    for kind in kinds:
        for name, value in average_precision(ground_truth, results, kind)._asdict().items():
            record[f"{kind}/{name}"] = value
    return record


def _is_evaluated(run: TrainingRun) -> bool:
    """Return whether an evaluation follows this iteration; one always follows the last iteration."""
    every = run.recipe.evaluate_every
    return every > 0 and run.iteration % every == 0 and 0 < run.iteration < run.recipe.schedule.iterations


def _listed(data: CocoDataset) -> str:
    return shown(
        ", ".join(f"{i} {quoted_if_odd(name)}" for i, name in zip(data.category_ids, data.class_names, strict=True)),
        1000,
    )


def draw_predictions(run: TrainingRun, sets: Sets, path: Path) -> None:
    """A sheet of validation images with the detections drawn."""
    shown = []
    for prediction in _predictor(run).stream(sets.val.paths[:IMAGES_SHOWN]):
        if prediction.detections is not None and prediction.image is not None:
            shown.append(prediction.detections.draw(prediction.image, longest_side=SHEET_SIDE))
    write_sheet(shown, path)


def _predictor(run: TrainingRun) -> Predictor:
    model = run.evaluated.eval()
    backend = TorchBackend(LoadedModel(model, run.manifest, "the model in training"), run.device)
    return Predictor(backend, batch_size=8)


def _record(run: TrainingRun, losses: Losses, seconds: float) -> Record:
    record: Record = {"iteration": run.iteration, "seconds": round(seconds, 1)}
    record["learning_rate"] = run.optimizer.param_groups[0]["lr"]
    record["loss/total"] = float(losses.total)
    return record | {f"loss/{name}": float(value) for name, value in losses.terms.items()}


def with_classes(recipe: Recipe, sets: Sets) -> Recipe:
    """The recipe for the data set's number of classes."""
    return replace(recipe, model=replace(recipe.model, num_classes=len(sets.train.class_names)))
