"""`condinst-predict`: a model and images become overlay images and a COCO results file."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from condinst_deploy.cli.command import (
    FAILED,
    INTERRUPTED,
    Pixels,
    command_app,
    hold,
    print_json,
    print_line,
    terminal,
)
from condinst_deploy.contract import DRAWN_ABOVE
from condinst_deploy.contract.artifacts import check_there, kind_of
from condinst_deploy.errors import ConfigError
from condinst_deploy.runtime.label_files import TOLERANCE, Format, write_text
from condinst_deploy.support.atomic_write import check_writable
from condinst_deploy.support.folder_lock import locked_folder

if TYPE_CHECKING:
    from condinst_deploy.cli.recording import Outcome
    from condinst_deploy.contract import ModelManifest
    from condinst_deploy.evaluation.threshold_file import Thresholds

RESULTS_FILE, IMAGES_FILE, CLASSES_FILE = "detections.json", "images.json", "yolo/classes.txt"


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMG_OR_DIR...", help="Images, folders (with --recursive also their subfolders) or patterns."
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
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    score_threshold: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|best|per-class",
            help="Keep scores (class probability and centerness together) above it; at least the model's own."
            " best, per-class: what --thresholds recommends, for all classes or for each.",
        ),
    ] = None,
    thresholds: Annotated[
        Path | None, typer.Option(help="figures.json of condinst-eval with this model, for --score-threshold.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Class names to keep, separated by commas. Default: all.")] = None,
    max_detections: Annotated[int | None, typer.Option(help="Keep the best so many of an image.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images of equal padded shape run at once. Default: 1 on a CPU, 8 on a GPU.")
    ] = None,
    pixels: Annotated[
        Pixels,
        typer.Option(
            help="exact: decoded and resized as by the references. fast: resized values may differ by 1."
            " cuda: decoded and resized on the GPU, then copied to the host and back."
        ),
    ] = Pixels.EXACT,
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
        float, typer.Option(min=0, help="Pixels that polygons of labelme and yolo may lie beside the outline.")
    ] = TOLERANCE,
    instances: Annotated[
        bool, typer.Option("--instances", help="Write PNGs of 16 bits: k where the image's k-th detection is.")
    ] = False,
    crops: Annotated[bool, typer.Option("--crops", help="Cut out each detection; outside its mask is clear.")] = False,
    recursive: Annotated[bool, typer.Option("--recursive", help="Take the images of subfolders, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on standard output.")] = False,
) -> None:
    """Find instances in images.

    Writes overlays/NAME.jpg, detections.json (COCO results, all detections) and images.json (images with their
    overlays, and classes, with their ids) into the folder; with options labelme/NAME.json, yolo/NAME.txt,
    instances/NAME.png and crops/NAME_K.png. An image that cannot be read is named, skipped and counted,
    and the exit status is 1 at the end. Overlays of an earlier run into the same folder stay, unless this one
    draws images of the same names; images.json lists the images of this run.
    """
    # imported here, so that --help does not wait for the backends
    from condinst_deploy.cli.recording import Outputs, detect
    from condinst_deploy.runtime.coco_results import coco_results, write_json
    from condinst_deploy.runtime.predictor import Predictor
    from condinst_deploy.runtime.preprocessing.types import InputOptions

    paths = _images(images, recursive)
    check_there(model)
    check_writable(out / RESULTS_FILE)
    chosen = threshold_choice(score_threshold, thresholds, model)
    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    with terminal.status("loading the model"):
        predictor = Predictor(
            model,
            device=device,
            classes=names,
            max_detections=max_detections,
            batch_size=batch_size,
            inputs=InputOptions(pixels.value),
            score_threshold=chosen.number,
        )
    with predictor:
        backend = predictor.backend
        note = f" ({backend.note})" if backend.note else ""
        terminal.print(f"{model}{note}: {backend.name} on {backend.device}, {len(paths)} images")
        outputs = Outputs(
            out,
            overlays,
            draw_threshold,
            chosen.of_labels(predictor.manifest),
            frozenset(formats or ()),
            tolerance,
            instances,
            crops,
        )
        if overlays:
            _say_without_glyphs(predictor.class_names)
        hold(locked_folder(out))
        with coco_results(out / RESULTS_FILE) as writer:
            outcome = detect(predictor, paths, outputs, writer)
        categories = [
            {"id": category_id, "name": name}
            for category_id, name in zip(predictor.manifest.category_ids, predictor.class_names, strict=True)
        ]
    # loads in pycocotools, whose loadRes then takes the detections
    write_json(out / IMAGES_FILE, {"images": outcome.images, "categories": categories, "annotations": []})
    if Format.YOLO in outputs.formats:
        write_text(out / CLASSES_FILE, "".join(f"{name}\n" for name in predictor.class_names))
    if overlays and outcome.images and not outcome.drawn:
        terminal.print(f"none above {draw_threshold:g} drawn; --draw-threshold draws detections of lower scores")
    _report(out.absolute(), outcome, writer.count, as_json)


def _images(given: Sequence[str], recursive: bool) -> list[Path]:
    from condinst_deploy.imaging.decode import existing_sources

    for path in map(Path, given):
        if kind_of(path) is not None:
            raise ConfigError(f"{path} is a model by its name and was given as an image; expected --model {path}")
    return existing_sources(given, recursive=recursive)  # or an error: results of an earlier run stay as they are


@dataclass(frozen=True)
class ThresholdChoice:
    """What `--score-threshold` asks for: a number for the predictor, or one for each class from a file."""

    number: float | None = None  # for the predictor
    read: "Thresholds | None" = None  # for each class

    def of_labels(self, manifest: "ModelManifest") -> tuple[float, ...] | None:
        """Return a threshold for each label; None where one holds for all."""
        return None if self.read is None else self.read.per_label(manifest)


def threshold_choice(asked: str | None, thresholds: Path | None, model: Path) -> ThresholdChoice:
    """Return what the options `--score-threshold` and `--thresholds` ask for.

    Raises:
        ConfigError: they do not go together, or the text is no number.
        DataError: the file has no thresholds.
    """
    if asked not in ("best", "per-class"):
        if thresholds is not None:
            raise ConfigError("--thresholds is for --score-threshold best or per-class; give one of them, too")
        return ThresholdChoice(None if asked is None else _number(asked))
    if thresholds is None:
        raise ConfigError(f"--score-threshold {asked} takes its numbers from --thresholds; give figures.json")
    from condinst_deploy.evaluation.threshold_file import load_thresholds

    read = load_thresholds(thresholds, model)
    if not read.exact:
        terminal.print(f"{thresholds} was made with {read.source}, not with this file: its thresholds may not fit")
    if asked == "per-class":
        return ThresholdChoice(read=read)
    terminal.print(f"score threshold {read.overall:.3f}, the best of {read.source}")
    return ThresholdChoice(number=read.overall)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as e:
        raise ConfigError(f"--score-threshold is {text!r}; expected a number from 0 to 1, best or per-class") from e


def _say_without_glyphs(names: Iterable[str]) -> None:
    """Say which characters of the class names no font draws; overlays show their codes."""
    from condinst_deploy.imaging.fonts import without_glyphs

    missing = without_glyphs(names)
    if missing:
        terminal.print(
            f"no font on this machine has {missing[:10]}: overlays show codes such as"
            f" {ascii(missing[0])[1:-1]}. Install a font that has them, for example Noto Sans CJK"
        )


def _report(out: Path, outcome: "Outcome", detections: int, as_json: bool) -> None:
    done, skipped = len(outcome.images), len(outcome.skipped)
    if as_json:
        summary = {
            "out": str(out),
            "pictures": done,
            "detections": detections,
            "drawn": outcome.drawn,
            "skipped": outcome.skipped,
            "interrupted": outcome.interrupted,
        }
        print_json(summary)
    else:
        print_line(f"{detections} detections in {done} images, {skipped} skipped: {out}")
    if outcome.interrupted:
        terminal.print("interrupted; the results hold the images that were finished")
        raise typer.Exit(INTERRUPTED)
    if skipped:
        raise typer.Exit(FAILED)


main = command_app(predict)
