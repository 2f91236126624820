"""`condinst-train`: a recipe and COCO-format data become a trained model."""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress, TaskID

from condinst_deploy.cli.command import DeviceOption, command_app, print_json, print_line, progress_bar, terminal
from condinst_deploy.cli.progress import ProgressLines, progress_line
from condinst_deploy.shown_text import counted, quoted_if_odd
from condinst_deploy.support.signals import exit_status, listen_for_preemption
from condinst_deploy.training.recipe_names import check_recipe_is_there
from condinst_deploy.training.train_options import TrainOptions

if TYPE_CHECKING:
    from condinst_deploy.model.losses import Losses
    from condinst_deploy.training.history import Record
    from condinst_deploy.training.recipe import Recipe
    from condinst_deploy.training.train_model import TrainedModel
    from condinst_deploy.training.trainer import Reports, Sets

READING = "reading"

MOST_NAMES = 20
"""Class names in one line."""


def train(
    recipe: Annotated[
        str,
        typer.Option(
            help="Recipe of this package (condinst_r50_1x, adelaidet_r50_1x, shapes_slim, ...) or a TOML file."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/NAME_OF_THE_RECIPE")] = None,
    train_annotations: Annotated[Path | None, typer.Option(help="COCO annotation file to train on.")] = None,
    train_images: Annotated[Path | None, typer.Option(help="Folder of its images.")] = None,
    val_annotations: Annotated[Path | None, typer.Option(help="COCO annotation file to evaluate on.")] = None,
    val_images: Annotated[Path | None, typer.Option(help="Folder of its images.")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Fine-tune this CondInst checkpoint instead of training from the start.")
    ] = None,
    backbone: Annotated[
        Path | None,
        typer.Option(
            help="Start from this ResNet: torchvision's state dict, a file with detectron2's, or the word torchvision,"
            " which fetches its ImageNet weights."
        ),
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Number of classes that the data set must have.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Length of the run, instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the recipe's.")] = None,
    strict: Annotated[bool, typer.Option(help="Refuse training data with warnings, not only with errors.")] = False,
    resume: Annotated[bool, typer.Option(help="Continue from the last checkpoint in the folder of the run.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Do not train: check recipe and data, draw examples with masks, estimate time and memory.",
        ),
    ] = False,
    device: DeviceOption = "auto",
    meeting: Annotated[
        str, typer.Option(help="Where several processes find each other: env:// (torchrun's), tcp://... or file://...")
    ] = "env://",
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the metrics of the last and the best model as JSON on standard output."),
    ] = False,
) -> None:
    """Train a CondInst model.

    The recipe shapes_slim generates its data (375 MB) in data/shapes below the current folder.

    The folder of the run gets last.pth (checkpoint), best.pth and model.pth (for condinst-export), recipe.toml,
    data.json, history.jsonl, TensorBoard scalars, curves.png and predictions.jpg. Ctrl-C, SIGTERM and SIGUSR1 leave
    a checkpoint; --resume goes on and ends with the same weights as a run that was never interrupted.

    On several GPUs: torchrun --nproc-per-node 8 --no-python condinst-train --recipe ...
    """
    options = TrainOptions(
        out=out,
        train_annotations=train_annotations,
        train_images=train_images,
        val_annotations=val_annotations,
        val_images=val_images,
        weights=weights,
        backbone=backbone,
        num_classes=num_classes,
        iterations=iterations,
        seed=seed,
        resume=resume,
        strict=strict,
        device=device,
        meeting=meeting,
    )
    check_recipe_is_there(recipe)
    listen_for_preemption()
    if check:
        _check(recipe, options, as_json)
    else:
        _train(recipe, options, as_json)


def _check(recipe: str, options: TrainOptions, as_json: bool) -> None:
    """Print the images, time and memory that a run will need, on standard output."""
    # PyTorch takes seconds to import: only after the arguments were checked
    from condinst_deploy.training.train_model import check

    with progress_bar() as progress:
        preview = check(recipe, options, _Shown(progress).reports())
    if as_json:
        print_json(preview.to_dict())
        return
    for line in preview.text().splitlines():
        print_line(line)


def _train(recipe: str, options: TrainOptions, as_json: bool) -> None:
    """Train to the end, and print the metrics of the best and of the last model."""
    from condinst_deploy.training.train_model import train as train_model

    with progress_bar() as progress:
        shown = _Shown(progress)
        try:
            trained = train_model(recipe, options, shown.reports())
        except KeyboardInterrupt as e:
            if shown.stopped is None:
                raise
            terminal.print(shown.stopped)
            raise typer.Exit(exit_status(e)) from e
    if os.environ.get("RANK", "0") != "0":  # only the first process prints
        return
    if as_json:
        best = None if trained.best is None else {"model": str(trained.best_model), **trained.best}
        print_json({"out": str(trained.folder), **trained.metrics, "best": best})
        return
    for line in _result_lines(trained):
        print_line(line)


def _result_lines(trained: "TrainedModel") -> list[str]:
    """The best model and the last one, each with its file, its average precision and its iteration."""
    from condinst_deploy.training.history import average_precision_text

    def line(model: Path, metrics: "Record", what: str) -> str:
        return f"{what} model, iteration {metrics['iteration']:.0f}: {average_precision_text(metrics)}: {model}"

    last, best = trained.metrics, trained.best
    if best is None or trained.best_model is None:
        return [line(trained.model, last, "last")]
    if best["iteration"] == last["iteration"]:
        return [line(trained.best_model, best, "best and last")]
    return [line(trained.best_model, best, "best"), line(trained.model, last, "last")]


class _Shown:
    """A run on the terminal: bars, or where there is no terminal a line every `log_every` iterations."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._total = self._every = 1
        self._lines = ProgressLines()
        self._begun = (0, time.monotonic())  # iteration and time of the start
        self.stopped: str | None = None  # what to say of an interrupted run

    def reports(self) -> "Reports":
        """The functions that the run calls."""
        from condinst_deploy.training.trainer import Reports

        return Reports(
            on_step=self._step,
            on_image=lambda done, of: self._counted("evaluating", done, of),
            on_evaluation=self._evaluation,
            on_stage=lambda stage: self._bar(READING, 0, None, description=stage),
            on_note=terminal.print,
            on_generated=lambda done, of: self._counted("generating the shapes set", done, of),
            on_data=self._data,
            on_start=self._start,
            on_interrupted=self._interrupted,
        )

    def _bar(self, what: str, done: int, of: int | None, description: str | None = None, visible: bool = True) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=of, completed=done)
        text = description or what
        self._progress.update(self._tasks[what], completed=done, total=of, description=text, visible=visible)

    def _counted(self, what: str, done: int, of: int) -> None:
        self._bar(what, done, of, visible=done < of)
        if done <= 1:  # another evaluation begins
            self._lines = ProgressLines()
        self._lines.update(what, done, of)

    def _data(self, sets: "Sets") -> None:
        self._bar(READING, 0, None, visible=False)
        names = sets.train.class_names
        terminal.print(f"{counted(len(sets.train), 'image')} to train on, {len(sets.val):,} to evaluate on")
        more = ", ..." if len(names) > MOST_NAMES else ""  # the table of the data set lists all
        terminal.print(f"classes: {', '.join(map(quoted_if_odd, names[:MOST_NAMES]))}{more}")

    def _start(self, iteration: int, recipe: "Recipe") -> None:
        self._total, self._every = recipe.schedule.iterations, recipe.log_every
        self._begun = (iteration, time.monotonic())
        self._bar("training", iteration, self._total)

    def _step(self, iteration: int, losses: "Losses") -> None:
        shown = " ".join(f"{name} {value.item():.3f}" for name, value in losses.terms.items())
        self._bar("training", iteration, self._total, f"training  {shown}")
        if not terminal.is_terminal and (iteration % self._every == 0 or iteration == self._total):
            first, begun = self._begun
            pace = progress_line("", iteration, self._total, iteration - first, time.monotonic() - begun)
            terminal.print(f"iteration {iteration} of {self._total}: {shown}{pace[pace.find(',') :]}")

    def _evaluation(self, record: "Record") -> None:
        from condinst_deploy.training.history import average_precision_text

        terminal.print(f"iteration {record['iteration']:.0f}: {average_precision_text(record)}")

    def _interrupted(self, iteration: int, folder: Path) -> None:
        self.stopped = f"stopped at iteration {iteration}, saved {folder}/last.pth; --resume goes on"


main = command_app(train, extra="train")
