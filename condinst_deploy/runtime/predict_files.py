"""Predict files: a model file and images in, a folder of COCO results, overlays and label files out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from condinst_deploy.contract import ModelManifest
from condinst_deploy.contract.artifacts import check_images, check_there
from condinst_deploy.errors import CondInstError
from condinst_deploy.imaging.drawing import unlabelled_text
from condinst_deploy.imaging.fonts import without_glyphs
from condinst_deploy.imaging.image_files import ImageFile, existing_sources
from condinst_deploy.runtime.coco_results import coco_results, write_json
from condinst_deploy.runtime.earlier_results import EarlierFiles, without_results
from condinst_deploy.runtime.label_files import Format, write_text
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.predictor_options import PredictorOptions
from condinst_deploy.runtime.recording import Destination, FileOutputs, Recorded, record
from condinst_deploy.shown_text import counted, quoted_if_odd
from condinst_deploy.support.atomic_write import check_writable
from condinst_deploy.support.folder_lock import locked_folder
from condinst_deploy.support.option_types import check_types, checked_arguments

RESULTS_FILE, IMAGES_FILE, CLASSES_FILE = "detections.json", "images.json", "yolo/classes.txt"

MOST_LISTED = 20
"""Classes whose thresholds are said; `PredictedFiles.class_thresholds` has all."""


class LabelThresholds(Protocol):
    """Score thresholds that differ between classes, as `evaluation.threshold_file.load_thresholds` reads them."""

    def per_label(self, manifest: ModelManifest) -> tuple[float, ...]:
        """Return the threshold of each label of a model."""


@dataclass(frozen=True)
class PredictFilesOptions:
    """Options for predicting images and writing results.

    Attributes:
        out: folder of the results; files of the same names are replaced, other files stay.
        predictor: how the model is loaded and run.
        outputs: what is written of each image beside COCO results.
        thresholds: keep detections with a score above the threshold of their class; None: one threshold for all
            classes, `predictor.score_threshold`.
        recursive: take the images of subfolders, too.
    """

    out: Path = Path("results")
    predictor: PredictorOptions = field(default_factory=PredictorOptions)
    outputs: FileOutputs = field(default_factory=FileOutputs)
    thresholds: LabelThresholds | None = None
    recursive: bool = False

    def __post_init__(self) -> None:
        """Check the types.

        Raises:
            ConfigError: a value has a wrong type.
        """
        check_types(self)


@dataclass(frozen=True)
class PredictFilesReports:
    """Functions that are called while images are predicted."""

    on_start: Callable[[Predictor, int], None] = lambda predictor, images: None  # the model is loaded
    on_note: Callable[[str], None] = lambda note: None
    on_image: Callable[[CondInstError | None], None] = lambda error: None  # one more is finished, or was skipped


@dataclass(frozen=True)
class PredictedFiles:
    """Files that were written.

    Attributes:
        folder: absolute.
        images: entries of images.json.
        skipped: `file_name` and `error` of each image that could not be read.
        detections: number of detections in detections.json.
        drawn: number of detections on overlays.
        interrupted: whether a signal ended the run early; what was finished is written.
        class_thresholds: `(class name, score threshold)` in the model's order; empty if there was one for all classes.
        unlabelled: number of detections on overlays whose label is left out, because there was no room for it.
    """

    folder: Path
    images: list[dict[str, Any]]
    skipped: list[dict[str, str]]
    detections: int
    drawn: int
    interrupted: bool
    class_thresholds: tuple[tuple[str, float], ...] = ()
    unlabelled: int = 0


@checked_arguments
def predict_files(
    model: str | Path,
    images: str | Path | Sequence[str | Path],
    options: PredictFilesOptions | None = None,
    reports: PredictFilesReports | None = None,
) -> PredictedFiles:
    """Detect instances in image files and write the results into a folder.

    Writes detections.json (COCO results, all detections), images.json (images with their overlays, and classes, with
    their ids) and the files of `options.outputs`. An image that cannot be read is skipped. Where no image is finished,
    nothing is written, and the results of an earlier run into the folder stay as they are. Files of an earlier run that
    this one does not replace stay, too, and are named in a note.

    Args:
        model: model file (.pth, .onnx, .engine).
        images: files, folders, patterns, or URLs of them (extra `urls`).
        options: how images are predicted, and what is written.
        reports: functions that are called while images are predicted.

    Raises:
        ArtifactError, CheckpointError, BackendError, ConfigError: the model cannot be used so, or an image lies where
            the run writes.
        ImageError: no image is there, or a storage cannot be read.
        OutputError: a file cannot be written, or another run writes into the folder.
    """
    options, reports = options or PredictFilesOptions(), reports or PredictFilesReports()
    given, model, out = [images] if isinstance(images, str | Path) else images, Path(model), Path(options.out)
    paths = _images(given, options.recursive, out, reports)
    check_there(model)
    check_writable(out / RESULTS_FILE)
    inputs = replace(options.predictor.inputs, keep_images=True)  # files are made of the images
    with Predictor(model, options.predictor, inputs=inputs) as predictor:
        reports.on_start(predictor, len(paths))
        _note_missing_glyphs(predictor.class_names, options.outputs, reports)
        manifest = predictor.manifest
        label_thresholds = None if options.thresholds is None else options.thresholds.per_label(manifest)
        class_thresholds = tuple(zip(manifest.class_names, label_thresholds or (), strict=False))
        if class_thresholds:
            reports.on_note(_thresholds_text(class_thresholds))
        with locked_folder(out), _watched(out, reports) as earlier:
            destination = Destination(out, options.outputs, label_thresholds, earlier.replaced)
            with coco_results(out / RESULTS_FILE) as writer:
                recorded = record(predictor, paths, destination, writer, reports.on_image)
                writer.is_dropped = not recorded.images
            if writer.is_dropped:
                _note_nothing_finished(out, earlier, reports)
            else:
                _write_lists(destination, recorded, manifest)
                if others := str(earlier):
                    reports.on_note(f"of earlier runs, not of these results: {others}")
    if recorded.images and not recorded.drawn:
        _note_nothing_drawn(options, writer.count, reports)
    if recorded.unlabelled:
        _note_unlabelled(recorded, reports)
    return PredictedFiles(
        out.absolute(),
        recorded.images,
        recorded.skipped,
        writer.count,
        recorded.drawn,
        recorded.interrupted,
        class_thresholds,
        recorded.unlabelled,
    )


def _thresholds_text(thresholds: Sequence[tuple[str, float]]) -> str:
    listed = ", ".join(f"{quoted_if_odd(name)} {threshold:.3f}" for name, threshold in thresholds[:MOST_LISTED])
    more = f", and {len(thresholds) - MOST_LISTED} more classes" if len(thresholds) > MOST_LISTED else ""
    return f"score thresholds: {listed}{more}"


@contextmanager
def _watched(out: Path, reports: PredictFilesReports) -> Iterator[EarlierFiles]:
    """Know what an earlier run left; where this one fails, say that files of both are mixed."""
    earlier = EarlierFiles(out, (RESULTS_FILE, IMAGES_FILE))
    try:
        yield earlier
    except BaseException:
        if earlier.has_results and earlier.changed:
            reports.on_note(
                f"this run failed: {counted(earlier.changed, 'file')} of its images lie in {out} beside"
                f" {RESULTS_FILE} or {IMAGES_FILE} of an earlier run"
            )
        raise


def _images(given: Sequence[str | Path], recursive: bool, out: Path, reports: PredictFilesReports) -> list[ImageFile]:
    check_images(given, "--model {path}")
    found = existing_sources([str(path) for path in given], recursive=recursive)
    images, left_out = without_results(found, given, out)
    if left_out:
        reports.on_note(
            f"{counted(len(left_out), 'image')} left out where this run writes its own, such as {left_out[0]};"
            " another --out takes all"
        )
    return images


def _write_lists(destination: Destination, recorded: Recorded, manifest: ModelManifest) -> None:
    """Write the list of images, which pycocotools loads, and that of YOLO's classes."""
    categories = [
        {"id": category_id, "name": name}
        for category_id, name in zip(manifest.category_ids, manifest.class_names, strict=True)
    ]
    content = {"images": recorded.images, "categories": categories, "annotations": []}
    write_json(destination.folder / IMAGES_FILE, content)
    if Format.YOLO in destination.outputs.formats:
        write_text(destination.folder / CLASSES_FILE, "".join(f"{name}\n" for name in manifest.class_names))
        destination.on_file(destination.folder / CLASSES_FILE)


def _note_missing_glyphs(names: Sequence[str], outputs: FileOutputs, reports: PredictFilesReports) -> None:
    """Say which characters of the class names no font draws; overlays show their codes."""
    missing = without_glyphs(names) if outputs.overlays else ""
    if missing:
        reports.on_note(
            f"no font on this machine has {missing[:10]}: overlays show codes such as"
            f" {ascii(missing[0])[1:-1]}. Install a font that has them, for example Noto Sans CJK"
        )


def _note_nothing_finished(out: Path, earlier: EarlierFiles, reports: PredictFilesReports) -> None:
    """Say that no results were written."""
    if earlier.has_results:
        reports.on_note(f"no image was finished: {out / RESULTS_FILE} of an earlier run stays as it is")
    else:
        reports.on_note(f"no image was finished: no results were written into {out}")


def _note_nothing_drawn(options: PredictFilesOptions, detections: int, reports: PredictFilesReports) -> None:
    """Say which threshold nothing is above."""
    outputs, least = options.outputs, options.predictor.score_threshold
    if not detections and least is not None:
        reports.on_note(f"no detection above the score threshold {least:g}; --score-threshold keeps lower scores")
    elif detections and outputs.overlays:
        reports.on_note(
            f"none above {outputs.draw_threshold:g} drawn; --draw-threshold draws detections of lower scores"
        )


def _note_unlabelled(recorded: Recorded, reports: PredictFilesReports) -> None:
    """Say how many labels are left out."""
    left_out = unlabelled_text(recorded.unlabelled, recorded.drawn)
    reports.on_note(f"{left_out}. A higher --draw-threshold draws fewer detections")
