"""`condinst-predict`: a model and images become overlay images and a COCO results file."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from condinst_deploy.cli.command import (
    FAILED,
    INTERRUPTED,
    Pixels,
    command_app,
    labelled,
    print_json,
    print_line,
    progress_bar,
    terminal,
)
from condinst_deploy.contract.artifacts import check_there, kind_of
from condinst_deploy.errors import ConfigError
from condinst_deploy.runtime.cores import usable_cores
from condinst_deploy.support.signals import whole_steps

if TYPE_CHECKING:
    from condinst_deploy.runtime.coco_results import ResultsWriter
    from condinst_deploy.runtime.pipeline import Prediction
    from condinst_deploy.runtime.predictor import Predictor

RESULTS_FILE, IMAGES_FILE, OVERLAYS = "detections.json", "images.json", "overlays"
LARGEST_JPEG = 65_500
"""Longest side of a JPEG, in pixels, that Pillow writes."""


@dataclass
class Outcome:
    """What a run came to."""

    images: list[dict[str, Any]] = field(default_factory=list)  # entries of images.json
    skipped: list[dict[str, str]] = field(default_factory=list)
    interrupted: bool = False


def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMG_OR_DIR...", help="Images, folders (not their subfolders) or patterns ('pics/**/*.jpg')."
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
        float | None,
        typer.Option(
            help="Keep scores (class probability and centerness together) above it; at least the model's own."
        ),
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
    overlays: Annotated[bool, typer.Option(help="Draw the detections that score above 0.3.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on standard output.")] = False,
) -> None:
    """Find instances in images.

    Writes overlays/NAME.jpg, detections.json (COCO results, all detections) and images.json (images and
    classes with their ids) into the folder. An image that cannot be read is named, skipped and counted,
    and the exit status is 1 at the end. Overlays of an earlier run into the same folder stay, unless this one
    draws images of the same names; images.json lists the images of this run.
    """
    # imported here, so that --help does not wait for the backends
    from condinst_deploy.runtime.coco_results import coco_results, write_json
    from condinst_deploy.runtime.predictor import Predictor
    from condinst_deploy.runtime.preprocessing.types import InputOptions

    paths = _images(images)
    check_there(model)
    names = None if classes is None else [name.strip() for name in classes.split(",") if name.strip()]
    with terminal.status("loading the model"):
        predictor = Predictor(
            model,
            device=device,
            score_threshold=score_threshold,
            classes=names,
            max_detections=max_detections,
            batch_size=batch_size,
            inputs=InputOptions(pixels.value),
        )
    with predictor:
        backend = predictor.backend
        note = f" ({backend.note})" if backend.note else ""
        terminal.print(f"{model}{note}: {backend.name} on {backend.device}, {len(paths)} images")
        with coco_results(out / RESULTS_FILE) as writer:
            outcome = detect(predictor, paths, out / OVERLAYS if overlays else None, writer)
        categories = [
            {"id": category_id, "name": name}
            for category_id, name in zip(predictor.manifest.category_ids, predictor.class_names, strict=True)
        ]
    # loads in pycocotools, whose loadRes then takes the detections
    write_json(out / IMAGES_FILE, {"images": outcome.images, "categories": categories, "annotations": []})
    _report(out.absolute(), outcome, writer.count, as_json)


def _images(given: Sequence[str]) -> list[Path]:
    from condinst_deploy.imaging.decode import existing_sources

    for path in map(Path, given):
        if kind_of(path) is not None:
            raise ConfigError(f"{path} is a model by its name and was given as an image; expected --model {path}")
    return existing_sources(given)  # or an error: results of an earlier run stay as they are


@dataclass(frozen=True)
class _Image:
    """What the results call an image."""

    path: Path
    image_id: int
    overlay: Path | None  # without its suffix


def detect(predictor: "Predictor", paths: Sequence[Path], overlays: Path | None, writer: "ResultsWriter") -> Outcome:
    """Detect, draw into the folder `overlays` where there is one, and write results, all at the same time."""
    outcome = Outcome()
    with _Recorder(writer, outcome) as recorder:
        try:
            with progress_bar() as progress, closing(predictor.stream(paths)) as stream:
                predictions = progress.track(stream, total=len(paths), description="images")
                for image, prediction in zip(_named(paths, overlays), predictions, strict=True):
                    if prediction.error is None:
                        recorder.add(image, prediction)
                        continue
                    outcome.skipped.append({"file_name": str(image.path), "error": str(prediction.error)})
                    terminal.print(labelled("skipped:", "yellow", prediction.error))
        except KeyboardInterrupt:
            outcome.interrupted = True
        recorder.finish()
    return outcome


def _named(paths: Sequence[Path], overlays: Path | None) -> Iterator[_Image]:
    from condinst_deploy.runtime.coco_results import image_ids

    for path, image_id, name in zip(paths, image_ids(list(paths)), _overlay_names(paths), strict=True):
        yield _Image(path, image_id, None if overlays is None else overlays / name)


class _Recorder:
    """Encodes and draws in threads of its own, beside the network; writes results in the images' order."""

    def __init__(self, writer: "ResultsWriter", outcome: Outcome) -> None:
        self._writer, self._outcome = writer, outcome
        self._threads = max(1, min(4, usable_cores() // 2))
        self._pool = ThreadPoolExecutor(self._threads, "condinst-record")
        self._pending: deque[tuple[dict[str, Any], Future[list[dict[str, Any]]]]] = deque()

    def add(self, image: _Image, prediction: "Prediction") -> None:
        """Take a prediction; of those that are not written yet, two a thread are held."""
        assert prediction.image is not None
        height, width = prediction.image.shape[:2]
        entry = {"id": image.image_id, "file_name": str(image.path), "height": height, "width": width}
        with whole_steps():  # what is drawn is written, too
            self._pending.append((entry, self._pool.submit(_recorded, image, prediction)))
        if len(self._pending) > 2 * self._threads:
            self._write_next()

    def finish(self) -> None:
        """Write all that was taken."""
        while self._pending:
            self._write_next()

    def _write_next(self) -> None:
        entry, recorded = self._pending[0]
        results = recorded.result()  # an interruption while it waits leaves the image to `finish`
        with whole_steps():  # neither an image without its detections nor the other way round
            self._writer.add_entries(results)
            self._outcome.images.append(entry)
            self._pending.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def _recorded(image: _Image, prediction: "Prediction") -> list[dict[str, Any]]:
    """The image's COCO results; its overlay, where one is wanted, is on the disk."""
    assert prediction.detections is not None
    if image.overlay is not None:
        _save_overlay(image.overlay, prediction)
    return prediction.detections.to_coco(image.image_id)


def _save_overlay(path: Path, prediction: "Prediction") -> None:
    from condinst_deploy.support.atomic_write import atomic_path

    assert prediction.detections is not None
    assert prediction.image is not None
    overlay = prediction.detections.draw(prediction.image)
    kind = "JPEG" if max(overlay.size) <= LARGEST_JPEG else "PNG"
    with atomic_path(path.with_name(f"{path.name}.{'jpg' if kind == 'JPEG' else 'png'}")) as temporary:
        overlay.save(temporary, format=kind, quality=90)


def _overlay_names(paths: Sequence[Path]) -> Iterator[str]:
    """A name for each image's overlay; equal stems from different folders get a number."""
    used: set[str] = set()
    for path in paths:
        name, number = path.stem, 1
        while name in used:
            number += 1
            name = f"{path.stem}_{number}"
        used.add(name)
        yield name


def _report(out: Path, outcome: Outcome, detections: int, as_json: bool) -> None:
    done, skipped = len(outcome.images), len(outcome.skipped)
    if as_json:
        summary = {
            "out": str(out),
            "pictures": done,
            "detections": detections,
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
