"""What `condinst-predict` writes of each image while the network runs: results, overlays and other label files."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image

from condinst_deploy.cli.command import labelled, terminal
from condinst_deploy.cli.progress import progress_of
from condinst_deploy.contract import DRAWN_ABOVE, InstanceDetections
from condinst_deploy.imaging.encode import write_png
from condinst_deploy.runtime.cores import usable_cores
from condinst_deploy.runtime.label_files import (
    TOLERANCE,
    Format,
    cut_outs,
    instance_image,
    write_labelme,
    write_text,
    yolo_text,
)
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.signals import whole_steps

if TYPE_CHECKING:
    from condinst_deploy.runtime.coco_results import ResultsWriter
    from condinst_deploy.runtime.pipeline import Prediction
    from condinst_deploy.runtime.predictor import Predictor

OVERLAYS, LABELME, YOLO, INSTANCES, CROPS = "overlays", "labelme", "yolo", "instances", "crops"
"""Folders below that of the run."""

LARGEST_JPEG = 65_500
"""Longest side of a JPEG, in pixels, that Pillow writes."""

LONGEST_STEM = 240
"""Bytes of a written file's name without its suffix; file systems take 255."""


@dataclass(frozen=True)
class Outputs:
    """What is written of each image beside COCO results.

    Attributes:
        folder: of the run.
        overlays: whether images are drawn.
        draw_threshold: detections with a higher score are drawn.
        label_thresholds: for each label, keep detections with a higher score in all outputs; None: keep all.
        formats: label files.
        tolerance: of polygons in label files, in pixels.
        instances: whether images of instance numbers are written.
        crops: whether cut-outs of the instances are written.
    """

    folder: Path
    overlays: bool = True
    draw_threshold: float = DRAWN_ABOVE
    label_thresholds: tuple[float, ...] | None = None
    formats: frozenset[Format] = frozenset()
    tolerance: float = TOLERANCE
    instances: bool = False
    crops: bool = False


@dataclass
class Outcome:
    """What a run came to."""

    images: list[dict[str, Any]] = field(default_factory=list)  # entries of images.json
    skipped: list[dict[str, str]] = field(default_factory=list)
    interrupted: bool = False
    drawn: int = 0  # detections on overlays


@dataclass(frozen=True)
class _Image:
    """What the results call an image."""

    path: Path
    image_id: int
    stem: str  # of its files


@dataclass(frozen=True)
class _Recorded:
    """What a thread made of a prediction."""

    results: list[dict[str, Any]]
    overlay: Path | None
    drawn: int


def detect(predictor: "Predictor", paths: Sequence[Path], outputs: Outputs, writer: "ResultsWriter") -> Outcome:
    """Detect, draw, and write results and label files, all at the same time."""
    outcome = Outcome()
    with _Recorder(outputs, writer, outcome) as recorder:
        try:
            with progress_of("images", len(paths)) as advance, closing(predictor.stream(paths)) as predictions:
                for image, prediction in zip(_named(paths), predictions, strict=True):
                    if prediction.error is None:
                        recorder.add(image, prediction)
                    else:
                        outcome.skipped.append({"file_name": str(image.path), "error": str(prediction.error)})
                        terminal.print(labelled("skipped:", "yellow", prediction.error))
                    advance()
        except KeyboardInterrupt:
            outcome.interrupted = True
        recorder.finish()
    return outcome


def _named(paths: Sequence[Path]) -> Iterator[_Image]:
    from condinst_deploy.runtime.coco_results import image_ids

    for path, image_id, stem in zip(paths, image_ids(list(paths)), file_stems(paths), strict=True):
        yield _Image(path, image_id, stem)


class _Recorder:
    """Encodes and draws in threads of its own, beside the network; writes results in the images' order."""

    def __init__(self, outputs: Outputs, writer: "ResultsWriter", outcome: Outcome) -> None:
        self._outputs, self._writer, self._outcome = outputs, writer, outcome
        self._threads = max(1, min(4, usable_cores() // 2))
        self._pool = ThreadPoolExecutor(self._threads, "condinst-record")
        self._pending: deque[tuple[dict[str, Any], Future[_Recorded]]] = deque()

    def add(self, image: _Image, prediction: "Prediction") -> None:
        """Take a prediction; of those that are not written yet, two a thread are held."""
        assert prediction.image is not None
        height, width = prediction.image.shape[:2]
        entry = {"id": image.image_id, "file_name": str(image.path), "height": height, "width": width}
        with whole_steps():  # what is drawn is written, too
            self._pending.append((entry, self._pool.submit(_recorded, image, prediction, self._outputs)))
        if len(self._pending) > 2 * self._threads:
            self._write_next()

    def finish(self) -> None:
        """Write all that was taken."""
        while self._pending:
            self._write_next()

    def _write_next(self) -> None:
        entry, future = self._pending[0]
        recorded = future.result()  # an interruption while it waits leaves the image to `finish`
        with whole_steps():  # neither an image without its detections nor the other way round
            self._writer.add_entries(recorded.results)
            if recorded.overlay is not None:
                entry["overlay"] = recorded.overlay.relative_to(self._outputs.folder).as_posix()
            self._outcome.images.append(entry)
            self._outcome.drawn += recorded.drawn
            self._pending.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def _recorded(image: _Image, prediction: "Prediction", outputs: Outputs) -> _Recorded:
    """Return the image's COCO results; its other files are on the disk."""
    found = prediction.detections
    assert found is not None
    assert prediction.image is not None
    if outputs.label_thresholds is not None:
        found = found[found.scores > np.array(outputs.label_thresholds, dtype=np.float32)[found.labels]]
    overlay, drawn = None, 0
    if outputs.overlays:
        overlay = _save_overlay(image, found.draw(prediction.image, outputs.draw_threshold), outputs)
        drawn = int((found.scores > outputs.draw_threshold).sum())
    _save_labels(image, found, outputs)
    if outputs.crops:
        for number, crop in cut_outs(found, prediction.image):
            write_png(outputs.folder / CROPS / f"{image.stem}_{number:03d}.png", crop)
    return _Recorded(found.to_coco(image.image_id), overlay, drawn)


def _save_overlay(image: _Image, overlay: Image.Image, outputs: Outputs) -> Path:
    kind = "JPEG" if max(overlay.size) <= LARGEST_JPEG else "PNG"
    path = outputs.folder / OVERLAYS / f"{image.stem}.{'jpg' if kind == 'JPEG' else 'png'}"
    with atomic_path(path) as temporary:
        overlay.save(temporary, format=kind, quality=90)
    return path


def _save_labels(image: _Image, found: InstanceDetections, outputs: Outputs) -> None:
    folder = outputs.folder
    if Format.LABELME in outputs.formats:
        # labelme looks for the image from the folder of its file
        where = os.path.relpath(image.path.absolute(), (folder / LABELME).absolute())
        write_labelme(folder / LABELME / f"{image.stem}.json", found, where, outputs.tolerance)
    if Format.YOLO in outputs.formats:
        write_text(folder / YOLO / f"{image.stem}.txt", yolo_text(found, outputs.tolerance))
    if outputs.instances:
        write_png(folder / INSTANCES / f"{image.stem}.png", instance_image(found))


def file_stems(paths: Sequence[Path]) -> Iterator[str]:
    """A name for each image's files; equal stems from different folders get a number."""
    used: set[str] = set()
    for path in paths:
        name, number = _fitting(path.stem), 1
        while name in used:
            number += 1
            name = _fitting(path.stem, f"_{number}")
        used.add(name)
        yield name


def _fitting(stem: str, ending: str = "") -> str:
    """A name that is not too long for a file system, with place for a suffix."""
    if len(os.fsencode(stem + ending)) <= LONGEST_STEM:
        return stem + ending
    return os.fsdecode(os.fsencode(stem)[: LONGEST_STEM - len(ending)].decode("utf-8", "ignore")) + ending
