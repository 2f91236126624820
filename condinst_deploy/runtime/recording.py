"""Write each image's results, overlay and label files while the network runs on the next images."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from condinst_deploy.contract import DRAWN_ABOVE, InstanceDetections
from condinst_deploy.errors import CondInstError
from condinst_deploy.imaging.drawing import OVERLAY_SIDE
from condinst_deploy.imaging.encode import write_overlay, write_png
from condinst_deploy.imaging.image_files import ImageFile
from condinst_deploy.runtime.coco_results import ResultsWriter, image_ids
from condinst_deploy.runtime.cores import usable_cores
from condinst_deploy.runtime.earlier_results import CROPS, INSTANCES, LABELME, OVERLAYS, YOLO
from condinst_deploy.runtime.label_files import (
    TOLERANCE,
    Format,
    cut_outs,
    instance_image,
    write_labelme,
    write_text,
    yolo_text,
)
from condinst_deploy.runtime.pipeline import Prediction
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.support.file_names import fitting_stem
from condinst_deploy.support.option_types import check_types
from condinst_deploy.support.signals import whole_steps
from condinst_deploy.support.validation import Limits, check_number


@dataclass(frozen=True)
class FileOutputs:
    """Files that are written for each image, besides COCO results.

    Attributes:
        overlays: write overlays/NAME.jpg, the image with its detections. An image whose longest side is shorter than
            640 pixels is enlarged by a whole factor to at least that, so that labels do not hide it.
        draw_threshold: draw detections with a higher score.
        formats: label files to write: labelme/NAME.json, yolo/NAME.txt. COCO results are always written.
        tolerance: distance in pixels that polygons in label files may lie beside the exact outline.
        instances: write instances/NAME.png, 16 bits: k where the image's k-th detection is.
        crops: write crops/NAME_K.png, each detection with transparent pixels outside its mask.
    """

    overlays: bool = True
    draw_threshold: float = DRAWN_ABOVE
    formats: frozenset[Format] = frozenset()
    tolerance: float = TOLERANCE
    instances: bool = False
    crops: bool = False

    def __post_init__(self) -> None:
        """Check types and numbers.

        Raises:
            ConfigError: a value has a wrong type or is out of its range.
        """
        check_types(self)
        check_number("draw_threshold", self.draw_threshold, Limits(0, 1))
        check_number("tolerance", self.tolerance, Limits(0))


@dataclass(frozen=True)
class Destination:
    """Options for writing the detections of a run.

    Attributes:
        folder: of the run.
        outputs: what is written of each image.
        label_thresholds: for each label, keep detections with a higher score in all outputs; None: keep all.
        on_file: called with each file of an image that is written, beside the list of results.
    """

    folder: Path
    outputs: FileOutputs = FileOutputs()
    label_thresholds: tuple[float, ...] | None = None
    on_file: Callable[[Path], None] = lambda path: None


@dataclass
class Recorded:
    """Files that were written.

    Attributes:
        images: entries of images.json.
        skipped: `file_name` and `error` of each image that could not be read.
        interrupted: whether a signal ended the run early; what was finished is written.
        drawn: number of detections on overlays.
        unlabelled: number of them whose label is left out, because there was no room for it.
    """

    images: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    interrupted: bool = False
    drawn: int = 0
    unlabelled: int = 0


OnImage = Callable[[CondInstError | None], None]
"""Called after each image, with the error if it could not be read."""


@dataclass(frozen=True)
class _Image:
    """Return the name of an image in the results."""

    path: ImageFile
    image_id: int
    stem: str  # of its files


@dataclass(frozen=True)
class _ImageFiles:
    """Output of a thread for a prediction."""

    results: list[dict[str, Any]]
    overlay: Path | None
    drawn: int
    unlabelled: int
    paths: list[Path]  # of all files that were written


def record(
    predictor: Predictor,
    paths: Sequence[ImageFile],
    destination: Destination,
    writer: ResultsWriter,
    on_image: OnImage = lambda error: None,
) -> Recorded:
    """Detect instances in images, draw them, and write results and label files, all at the same time.

    An image that cannot be read is skipped. A signal ends the run early and is not raised again.

    Raises:
        BackendError: the model fails.
        OutputError: a file cannot be written.
    """
    recorded = Recorded()
    with _Recorder(destination, writer, recorded) as recorder:
        try:
            with closing(predictor.stream(paths)) as predictions:
                for image, prediction in zip(_named(paths), predictions, strict=True):
                    if prediction.error is None:
                        recorder.add(image, prediction)
                    else:
                        recorded.skipped.append({"file_name": str(image.path), "error": str(prediction.error)})
                    on_image(prediction.error)
        except KeyboardInterrupt:
            recorded.interrupted = True
        recorder.finish()
    return recorded


def _named(paths: Sequence[ImageFile]) -> Iterator[_Image]:
    for path, image_id, stem in zip(paths, image_ids(paths), file_stems(paths), strict=True):
        yield _Image(path, image_id, stem)


class _Recorder:
    """Encodes and draws in its own threads, beside the network; writes results in the images' order."""

    def __init__(self, destination: Destination, writer: ResultsWriter, recorded: Recorded) -> None:
        self._destination, self._writer, self._done = destination, writer, recorded
        self._threads = max(1, min(4, usable_cores() // 2))
        self._pool = ThreadPoolExecutor(self._threads, "condinst-record")
        self._pending: deque[tuple[dict[str, Any], Future[_ImageFiles]]] = deque()

    def add(self, image: _Image, prediction: Prediction) -> None:
        """Take a prediction; of those that are not written yet, two a thread are held."""
        assert prediction.image is not None
        height, width = prediction.image.shape[:2]
        entry = {"id": image.image_id, "file_name": str(image.path), "height": height, "width": width}
        with whole_steps():  # what is drawn is written, too
            self._pending.append((entry, self._pool.submit(_written, image, prediction, self._destination)))
        if len(self._pending) > 2 * self._threads:
            self._write_next()

    def finish(self) -> None:
        """Write all that was taken."""
        while self._pending:
            self._write_next()

    def _write_next(self) -> None:
        entry, future = self._pending[0]
        files = future.result()  # an interruption while it waits leaves the image to `finish`
        with whole_steps():  # neither an image without its detections nor the other way round
            self._writer.add_entries(files.results)
            if files.overlay is not None:
                entry["overlay"] = files.overlay.relative_to(self._destination.folder).as_posix()
            self._done.images.append(entry)
            self._done.drawn += files.drawn
            self._done.unlabelled += files.unlabelled
            for path in files.paths:
                self._destination.on_file(path)
            self._pending.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def _written(image: _Image, prediction: Prediction, destination: Destination) -> _ImageFiles:
    """Return the image's COCO results; its other files are on the disk."""
    found = prediction.detections
    assert found is not None
    assert prediction.image is not None
    folder, outputs = destination.folder, destination.outputs
    if destination.label_thresholds is not None:
        found = found[found.scores > np.array(destination.label_thresholds, dtype=np.float32)[found.labels]]
    overlay, drawn, unlabelled = None, 0, 0
    paths = list(_saved_labels(image, found, destination))
    if outputs.overlays:
        made = found.overlay(prediction.image, outputs.draw_threshold, min_longest_side=OVERLAY_SIDE)
        overlay = write_overlay(folder / OVERLAYS, image.stem, made.image)
        drawn, unlabelled = made.drawn, made.unlabelled
        paths.append(overlay)
    if outputs.crops:
        for number, crop in cut_outs(found, prediction.image):
            paths.append(folder / CROPS / f"{image.stem}_{number:03d}.png")
            write_png(paths[-1], crop)
    return _ImageFiles(found.to_coco(image.image_id), overlay, drawn, unlabelled, paths)


def _saved_labels(image: _Image, found: InstanceDetections, destination: Destination) -> Iterator[Path]:
    """Write an image's label files; yields each."""
    folder, outputs = destination.folder, destination.outputs
    if Format.LABELME in outputs.formats:
        where = str(image.path)
        if isinstance(image.path, Path):  # labelme looks for the image from the folder of its file
            where = os.path.relpath(image.path.absolute(), (folder / LABELME).absolute())
        path = folder / LABELME / f"{image.stem}.json"
        write_labelme(path, found, where, outputs.tolerance)
        yield path
    if Format.YOLO in outputs.formats:
        path = folder / YOLO / f"{image.stem}.txt"
        write_text(path, yolo_text(found, outputs.tolerance))
        yield path
    if outputs.instances:
        path = folder / INSTANCES / f"{image.stem}.png"
        write_png(path, instance_image(found))
        yield path


def file_stems(paths: Sequence[ImageFile]) -> Iterator[str]:
    """A name for each image's files; equal stems from different folders get a number.

    The stem `classes` gets one, too: classes.txt beside YOLO's files has the class names.
    """
    used: set[str] = {"classes"}
    for path in paths:
        name, number = fitting_stem(path.stem), 1
        while name in used:
            number += 1
            name = fitting_stem(path.stem, f"_{number}")
        used.add(name)
        yield name
