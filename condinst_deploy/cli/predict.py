"""`condinst-predict`: a model and images become overlay images and a COCO results file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condinst_deploy.cli.command import (
    FAILED,
    SCORE_THRESHOLD_HELP,
    BatchSizeOption,
    CanvasOption,
    ClassesOption,
    DeviceOption,
    MaxDetectionsOption,
    Pixels,
    PrecisionOption,
    canvases_of,
    class_names,
    command_app,
    labelled,
    print_json,
    print_line,
    progress_bar,
    terminal,
)
from condinst_deploy.cli.progress import ProgressLines
from condinst_deploy.contract import DRAWN_ABOVE
from condinst_deploy.contract.artifacts import check_there
from condinst_deploy.errors import CondInstError, ConfigError
from condinst_deploy.runtime.label_files import TOLERANCE, Format
from condinst_deploy.shown_text import counted
from condinst_deploy.support.signals import exit_status

if TYPE_CHECKING:
    from condinst_deploy.evaluation.threshold_file import Thresholds
    from condinst_deploy.runtime.predict_files import PredictedFiles, PredictFilesReports
    from condinst_deploy.runtime.predictor import Predictor


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMG_OR_DIR...",
            help="Images, folders (with --recursive also their subfolders), patterns, or URLs of them (s3://, gs://,"
            " ...; extra urls).",
        ),
    ],
    model: Annotated[
        Path,
        typer.Option(
            help="Model file: .onnx from condinst-export, .engine from condinst-build-engine (needs its GPU),"
            " or a checkpoint (.pth, .pt)."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(help="Folder for the results; files of the same names are replaced, other files stay."),
    ] = Path("results"),
    device: DeviceOption = "auto",
    score_threshold: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|best|per-class",
            help=f"{SCORE_THRESHOLD_HELP} best, per-class: what --thresholds recommends, for all classes or for each.",
        ),
    ] = None,
    thresholds: Annotated[
        Path | None, typer.Option(help="figures.json of condinst-eval with this model, for --score-threshold.")
    ] = None,
    classes: ClassesOption = None,
    max_detections: MaxDetectionsOption = None,
    batch_size: BatchSizeOption = None,
    pixels: Annotated[
        Pixels,
        typer.Option(
            help="exact: decoded and resized as by the references. fast: resized values may differ by 1."
            " cuda: decoded and resized on a GPU by PyTorch, JPEGs of several threads together; values differ more."
        ),
    ] = Pixels.EXACT,
    precision: PrecisionOption = None,
    canvas: CanvasOption = None,
    overlays: Annotated[bool, typer.Option(help="Draw the detections on the images.")] = True,
    draw_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Draw detections that score above it; the results keep all.")
    ] = DRAWN_ABOVE,
    formats: Annotated[
        list[Format] | None,
        typer.Option(
            "--format", help="Label files beside detections.json (coco, always written); repeat it for several."
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(min=0, help="Largest distance of labelme's and yolo's polygons from the outline, in pixels."),
    ] = TOLERANCE,
    instances: Annotated[
        bool, typer.Option("--instances", help="Write 16-bit PNGs: the value k marks the pixels of the k-th detection.")
    ] = False,
    crops: Annotated[
        bool, typer.Option("--crops", help="Write each detection as an image that is transparent outside its mask.")
    ] = False,
    recursive: Annotated[bool, typer.Option("--recursive", help="Take the images of subfolders, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on standard output.")] = False,
) -> None:
    """Find instances in images.

    Writes overlays/NAME.jpg, detections.json (COCO results, all detections) and images.json (images with their
    overlays, and classes, with their ids) into the folder; with options labelme/NAME.json, yolo/NAME.txt,
    instances/NAME.png and crops/NAME_K.png. An image that cannot be read is named, skipped and counted,
    and the exit status is 1 at the end. Files of an earlier run into the same folder stay where this one does not
    replace them, and are named; images.json lists the images of this run. If no image can be read, nothing is
    written, and earlier results stay. Overlays of images below 640 pixels are enlarged by a whole factor to at least
    that, so that labels do not hide them. Images where this run writes its own (FOLDER/overlays, instances, crops) are
    left out.
    """
    # imported here, so that --help does not wait for the backends
    from condinst_deploy.runtime.predict_files import PredictFilesOptions, predict_files
    from condinst_deploy.runtime.predictor_options import PredictorOptions
    from condinst_deploy.runtime.preprocessing.types import InputOptions
    from condinst_deploy.runtime.recording import FileOutputs

    number, per_class = _thresholds(score_threshold, thresholds, model)
    options = PredictFilesOptions(
        out,
        PredictorOptions(
            device=device,
            score_threshold=number,
            classes=class_names(classes),
            max_detections=max_detections,
            batch_size=batch_size,
            inputs=InputOptions(pixels.value),
            precision=None if precision is None else precision.value,
            canvases=canvases_of(canvas),
        ),
        FileOutputs(overlays, draw_threshold, frozenset(formats or ()), tolerance, instances, crops),
        per_class,
        recursive,
    )
    with _shown(model) as reports:
        done = predict_files(model, images, options, reports)
    _report(done, number, as_json)


def _thresholds(asked: str | None, thresholds: Path | None, model: Path) -> "tuple[float | None, Thresholds | None]":
    """Return what --score-threshold and --thresholds ask for: one number for the predictor, or one for each class.

    Raises:
        ConfigError: the options do not go together, or the text is no number.
        DataError: the file has no thresholds.
    """
    if asked not in ("best", "per-class"):
        number = None if asked is None else _number(asked)
        if thresholds is not None:
            raise ConfigError("--thresholds is for --score-threshold best or per-class; give one of them, too")
        return number, None
    if thresholds is None:
        raise ConfigError(f"--score-threshold {asked} takes its numbers from --thresholds; give figures.json")
    from condinst_deploy.evaluation.threshold_file import TO_DO, load_thresholds

    check_there(model)
    read = load_thresholds(thresholds, model)
    if not read.exact:
        terminal.print(f"the thresholds of {thresholds} may not fit: {read.origin}. {TO_DO}")
    if asked == "per-class":
        return None, read
    terminal.print(f"score threshold {read.overall:.3f}, the best of {read.source}")
    return read.overall, None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as e:
        raise ConfigError(f"--score-threshold is {text!r}; expected a number from 0 to 1, best or per-class") from e


@contextmanager
def _shown(model: Path) -> "Iterator[PredictFilesReports]":
    """Show the progress on the terminal, as a bar or as a line from time to time."""
    from condinst_deploy.runtime.predict_files import PredictFilesReports

    lines, done = ProgressLines(), 0
    with progress_bar() as progress:
        task, total = progress.add_task("loading the model", total=None), 0

        def on_start(predictor: "Predictor", images: int) -> None:
            nonlocal total
            backend, total = predictor.backend, images
            note = f" ({backend.note})" if backend.note else ""
            terminal.print(f"{model}{note}: {backend.name} on {backend.device}, {counted(images, 'image')}")
            progress.update(task, description="images", total=images)
            lines.update("images", 0, images)

        def on_image(error: CondInstError | None) -> None:
            nonlocal done
            if error is not None:
                terminal.print(labelled("skipped:", "yellow", error))
            done += 1
            progress.update(task, completed=done)
            lines.update("images", done, total)

        yield PredictFilesReports(on_start, terminal.print, on_image)


def _report(done: "PredictedFiles", number: float | None, as_json: bool) -> None:
    count, skipped = len(done.images), len(done.skipped)
    if as_json:
        summary = {
            "out": str(done.folder),
            "images": count,
            "detections": done.detections,
            "drawn": done.drawn,
            "unlabelled": done.unlabelled,
            "score_threshold": number,
            "class_thresholds": [{"name": name, "score_threshold": value} for name, value in done.class_thresholds],
            "skipped": done.skipped,
            "interrupted": done.interrupted,
        }
        print_json(summary)
    else:
        print_line(
            f"{counted(done.detections, 'detection')} in {counted(count, 'image')}, {skipped} skipped: {done.folder}"
        )
    if done.interrupted:
        terminal.print("interrupted; the results hold the images that were finished")
        raise typer.Exit(exit_status())
    if skipped:
        raise typer.Exit(FAILED)


main = command_app(predict)
