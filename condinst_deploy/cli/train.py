"""`condinst-train`: a recipe and COCO-format data become a trained model."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from condinst_deploy.cli.command import INTERRUPTED, command_app, print_json, print_line, progress_bar, terminal
from condinst_deploy.contract.artifacts import CHECKPOINT, check_there
from condinst_deploy.errors import ConfigError

if TYPE_CHECKING:
    from condinst_deploy.model.losses import Losses
    from condinst_deploy.training.history import Record
    from condinst_deploy.training.recipe import Recipe
    from condinst_deploy.training.run import TrainingRun
    from condinst_deploy.training.trainer import Reports

SHAPES_FOLDER = Path("data/shapes")


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
        Path | None, typer.Option(help="Fine-tune this CondInst checkpoint instead of starting anew.")
    ] = None,
    backbone: Annotated[
        Path | None, typer.Option(help="Start from this ResNet: torchvision's state dict, or a file with detectron2's.")
    ] = None,
    num_classes: Annotated[int | None, typer.Option(help="Check that the data set has so many classes.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Length of the run, instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, instead of the recipe's.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in the folder of the run.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the final figures as JSON on standard output.")
    ] = False,
) -> None:
    """Train a CondInst model.

    The recipe shapes_slim generates its data (375 MB) in data/shapes below the current folder.

    The folder of the run gets last.pth (checkpoint), model.pth (for condinst-export), history.jsonl,
    TensorBoard scalars, curves.png and predictions.jpg. Ctrl-C leaves a checkpoint; --resume goes on and
    ends with the same weights as a run that was never interrupted.
    """
    for start in filter(None, (weights, backbone)):
        check_there(start, CHECKPOINT)
    if weights is not None and (backbone is not None or resume):
        other = "--resume" if resume else "--backbone"
        raise ConfigError(f"--weights and {other} both say what to begin with; give one of them")
    # imported here, so that neither --help nor a mistake waits for PyTorch
    from condinst_deploy.runtime.torch_backend import torch_device
    from condinst_deploy.training import trainer as loop
    from condinst_deploy.training.recipe import load_recipe
    from condinst_deploy.training.run import fine_tuning_run, new_run, resumed_run

    chosen = _changed(load_recipe(recipe), iterations, seed, backbone)
    folder = out or Path("runs") / Path(recipe).stem
    if chosen.data.shapes:
        chosen = _with_shapes(chosen)
    places = {
        "train_annotations": train_annotations,
        "train_images": train_images,
        "val_annotations": val_annotations,
        "val_images": val_images,
    }
    given: dict[str, Any] = {name: str(path) for name, path in places.items() if path is not None}
    chosen = replace(chosen, data=replace(chosen.data, **given))
    with terminal.status("reading the data"):
        sets = loop.open_sets(chosen)
    chosen = loop.with_classes(chosen, sets)
    if num_classes is not None and num_classes != chosen.model.num_classes:
        raise ConfigError(f"--num-classes is {num_classes}; the data set has {chosen.model.num_classes} classes")
    terminal.print(f"{len(sets.train)} images to train on, {len(sets.val)} to evaluate on")
    terminal.print(f"{chosen.model.num_classes} classes: {', '.join(sets.train.class_names)}")
    manifest, where = loop.manifest_for(chosen, sets), torch_device(device)
    checkpoint = folder / loop.CHECKPOINT
    if resume:
        run = resumed_run(chosen, checkpoint, where)
        if run.manifest.class_names != manifest.class_names:
            raise ConfigError(
                f"{checkpoint} was trained on the classes {', '.join(run.manifest.class_names)}, and the data set has"
                f" {', '.join(manifest.class_names)}; resume with the same data"
            )
        terminal.print(f"resumed at iteration {run.iteration}")
    elif checkpoint.exists():
        raise ConfigError(f"{checkpoint} exists: go on with --resume, or name another folder with --out")
    elif weights is not None:
        run = fine_tuning_run(chosen, manifest, weights, where)
        terminal.print(run.note)
    else:
        run = new_run(chosen, manifest, where)
    with _explained_interruption(run, folder), progress_bar() as progress:
        metrics = loop.train(run, sets, folder, _reports(progress, run.iteration, chosen))
    if as_json:
        print_json({"out": str(folder.absolute()), **metrics})
    else:
        print_line(f"mask AP {metrics['segm/ap']:.4f}, box AP {metrics['bbox/ap']:.4f}: {folder.absolute()}")


@contextmanager
def _explained_interruption(run: "TrainingRun", folder: Path) -> Iterator[None]:
    """Say where an interrupted run stands."""
    try:
        yield
    except KeyboardInterrupt as e:
        terminal.print(f"stopped at iteration {run.iteration}, saved {folder}/last.pth; --resume goes on")
        raise typer.Exit(INTERRUPTED) from e


def _changed(recipe: "Recipe", iterations: int | None, seed: int | None, backbone: Path | None) -> "Recipe":
    """The recipe with what was given instead of its own."""
    if iterations is not None:
        recipe = _of_length(recipe, iterations)
    if backbone is not None:
        recipe = replace(recipe, start=replace(recipe.start, backbone=str(backbone)))
    return recipe if seed is None else replace(recipe, seed=seed)


def _of_length(recipe: "Recipe", iterations: int) -> "Recipe":
    """The recipe for so many iterations; says so where its warm-up does not fit."""
    shorter = recipe.of_length(iterations)
    before, after = recipe.schedule.warmup_iterations, shorter.schedule.warmup_iterations
    if after < before:
        terminal.print(f"warm-up shortened from {before} to {after} iterations: the run has only {iterations}")
    return shorter


def _with_shapes(recipe: "Recipe") -> "Recipe":
    """Generate the shapes set, or find it generated."""
    from condinst_deploy.data.shapes import TRAIN_COUNT, VAL_COUNT, ShapesConfig, generate_shapes

    with progress_bar() as progress:
        task = progress.add_task("generating the shapes set")

        def on_progress(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        train = generate_shapes(SHAPES_FOLDER, "train", TRAIN_COUNT, ShapesConfig(), on_progress)
        val = generate_shapes(SHAPES_FOLDER, "val", VAL_COUNT, ShapesConfig(), on_progress)
    data = replace(
        recipe.data,
        train_annotations=str(train),
        train_images=str(SHAPES_FOLDER / "train"),
        val_annotations=str(val),
        val_images=str(SHAPES_FOLDER / "val"),
    )
    return replace(recipe, data=data)


def _reports(progress: Progress, done: int, recipe: "Recipe") -> "Reports":
    """Bars, or where there is no terminal to draw on a line every `log_every` iterations."""
    from condinst_deploy.training.trainer import Reports

    total = recipe.schedule.iterations
    training = progress.add_task("training", total=total, completed=done)
    evaluating = progress.add_task("evaluating", total=None, visible=False)

    def on_step(iteration: int, losses: "Losses") -> None:
        shown = " ".join(f"{name} {value.item():.3f}" for name, value in losses.terms.items())
        progress.update(training, completed=iteration, description=f"training  {shown}")
        if not terminal.is_terminal and (iteration % recipe.log_every == 0 or iteration == total):
            terminal.print(f"iteration {iteration} of {total}: {shown}")

    def on_image(images: int, of: int) -> None:
        progress.update(evaluating, completed=images, total=of, visible=images < of)

    def on_evaluation(record: "Record") -> None:
        terminal.print(
            f"iteration {record['iteration']:.0f}: mask AP {record['segm/ap']:.4f} (AP50 {record['segm/ap50']:.4f}),"
            f" box AP {record['bbox/ap']:.4f}"
        )

    return Reports(on_step, on_image, on_evaluation)


main = command_app(train)
