"""`condinst-predict`: a model and pictures become overlay pictures and a COCO results file."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from condinst_deploy.cli.command import FAILED, INTERRUPTED, command_app, progress_bar, terminal
from condinst_deploy.model_files import check_there

if TYPE_CHECKING:
    from condinst_deploy.runtime.predictor import Prediction, Predictor
    from condinst_deploy.runtime.results import ResultsWriter

RESULTS_FILE, IMAGES_FILE, OVERLAYS = "detections.json", "images.json", "overlays"
LARGEST_JPEG = 65_500
"""Longest side of a JPEG, in pixels, that Pillow writes."""


@dataclass
class Outcome:
    """What a run came to."""

    pictures: list[dict[str, Any]] = field(default_factory=list)  # entries of images.json
    skipped: list[dict[str, str]] = field(default_factory=list)
    interrupted: bool = False


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMG_OR_DIR...", help="Pictures, folders (not their subfolders) or patterns ('pics/**/*.jpg')."
        ),
    ],
    model: Annotated[Path, typer.Option(help="Model file: .onnx from condinst-export, or a checkpoint (.pth).")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    score_threshold: Annotated[
        float | None,
        typer.Option(
            help="Keep scores (class probability and centerness together) above it; at least the model's own."
        ),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Class names to keep, separated by commas. Default: all.")] = None,
    max_detections: Annotated[int | None, typer.Option(help="Keep the best so many of a picture.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Pictures of equal padded shape run at once. Default: 1 on a CPU, 8 on a GPU.")
    ] = None,
    overlays: Annotated[bool, typer.Option(help="Draw the detections that score above 0.3.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on standard output.")] = False,
) -> None:
    """Find instances in pictures.

    Writes overlays/NAME.jpg, detections.json (COCO results, all detections) and images.json (pictures and
    classes with their ids) into the folder. A picture that cannot be read is named, skipped and counted,
    and the exit status is 1 at the end.
    """
    # imported here, so that --help does not wait for the backends
    from condinst_deploy.runtime.images import existing_sources
    from condinst_deploy.runtime.predictor import Predictor
    from condinst_deploy.runtime.results import coco_results, write_json

    paths = existing_sources(images)  # or an error: results of an earlier run stay as they are
    check_there(model)
    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    with terminal.status("loading the model"):
        predictor = Predictor(model, device, score_threshold, names, max_detections, batch_size)
    with predictor:
        backend = predictor.backend
        note = f" ({backend.note})" if backend.note else ""
        terminal.print(f"{escape(str(model))}{note}: {backend.name} on {backend.device}, {len(paths)} pictures")
        with coco_results(out / RESULTS_FILE) as writer:
            outcome = _run(predictor, paths, out / OVERLAYS if overlays else None, writer)
        categories = [
            {"id": category_id, "name": name}
            for category_id, name in zip(predictor.manifest.category_ids, predictor.class_names, strict=True)
        ]
    # loads in pycocotools, whose loadRes then takes the detections
    write_json(out / IMAGES_FILE, {"images": outcome.pictures, "categories": categories, "annotations": []})
    _report(out.absolute(), outcome, writer.count, as_json)


def _run(predictor: "Predictor", paths: Sequence[Path], overlays: Path | None, writer: "ResultsWriter") -> Outcome:
    from condinst_deploy.runtime.results import image_ids

    outcome = Outcome()
    names = _overlay_names(paths)
    try:
        with progress_bar() as progress:
            predictions = progress.track(predictor.stream(paths), total=len(paths), description="pictures")
            for path, image_id, name, prediction in zip(paths, image_ids(list(paths)), names, predictions, strict=True):
                if prediction.detections is None or prediction.image is None:
                    outcome.skipped.append({"file_name": str(path), "error": str(prediction.error)})
                    progress.console.print(f"[yellow]skipped:[/] {escape(str(prediction.error))}")
                    continue
                writer.add(image_id, prediction.detections)
                height, width = prediction.image.shape[:2]
                outcome.pictures.append({"id": image_id, "file_name": str(path), "height": height, "width": width})
                if overlays is not None:
                    _save_overlay(overlays / name, prediction)
    except KeyboardInterrupt:
        outcome.interrupted = True
    return outcome


def _save_overlay(path: Path, prediction: "Prediction") -> None:
    from condinst_deploy.atomic import atomic_path

    assert prediction.detections is not None
    assert prediction.image is not None
    overlay = prediction.detections.draw(prediction.image)
    kind = "JPEG" if max(overlay.size) <= LARGEST_JPEG else "PNG"
    with atomic_path(path.with_name(f"{path.name}.{'jpg' if kind == 'JPEG' else 'png'}")) as temporary:
        overlay.save(temporary, format=kind, quality=90)


def _overlay_names(paths: Sequence[Path]) -> Iterator[str]:
    """A name for each picture's overlay; equal stems from different folders get a number."""
    used: set[str] = set()
    for path in paths:
        name, number = path.stem, 1
        while name in used:
            number += 1
            name = f"{path.stem}_{number}"
        used.add(name)
        yield name


def _report(out: Path, outcome: Outcome, detections: int, as_json: bool) -> None:
    done, skipped = len(outcome.pictures), len(outcome.skipped)
    if as_json:
        summary = {
            "out": str(out),
            "pictures": done,
            "detections": detections,
            "skipped": outcome.skipped,
            "interrupted": outcome.interrupted,
        }
        print(json.dumps(summary, indent=2))
    else:
        print(f"{detections} detections in {done} pictures, {skipped} skipped: {out}")
    if outcome.interrupted:
        terminal.print("interrupted; the results hold the pictures that were finished")
        raise typer.Exit(INTERRUPTED)
    if skipped:
        raise typer.Exit(FAILED)


main = command_app(predict)
