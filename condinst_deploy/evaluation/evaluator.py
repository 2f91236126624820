"""An evaluation from end to end: models and results files -> metrics and comparisons."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from condinst_deploy.contract.artifacts import precision_for
from condinst_deploy.evaluation.coco_metrics import (
    CocoEvaluation,
    Entry,
    Kind,
    Scope,
    check_library,
    detect_each,
    evaluate_coco,
)
from condinst_deploy.evaluation.comparison import Comparison, compare
from condinst_deploy.evaluation.ground_truth import GroundTruth
from condinst_deploy.evaluation.journal import Journal
from condinst_deploy.evaluation.operating_points import OperatingPoints, operating_points
from condinst_deploy.evaluation.provenance import images_with_states, metric_versions, run_settings, with_images
from condinst_deploy.evaluation.results_reader import by_image, kinds_of, read_results
from condinst_deploy.evaluation.sources import EvaluationOptions, Source, check_outputs, results_path, unique_names
from condinst_deploy.runtime.coco_results import coco_results
from condinst_deploy.runtime.observer import observed
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.preprocessing.types import InputOptions
from condinst_deploy.shown_text import counted
from condinst_deploy.support.digests import sha256_of

JOURNALS = "journals"

ENCODE, JOURNAL, AVERAGE_PRECISION, MATCHING = "encode", "journal", "average precision", "matching"
STAGES = (ENCODE, JOURNAL, AVERAGE_PRECISION, MATCHING)
"""Stages that an observer sees beside those of `Predictor`. The last two have no images."""

OnProgress = Callable[[str, int, int], None]
"""Called with the name of the work, how much of it is done, and how much there is."""


@dataclass(frozen=True, eq=False)
class Side:
    """Metrics of one source."""

    name: str  # unique in an evaluation
    note: str  # how it was run
    settings: dict[str, Any]  # all that its results depend on; plain JSON values
    reused: int  # images whose results an earlier run left in the journal
    results: Path  # its COCO results file
    detections: int
    coco: dict[Kind, CocoEvaluation]
    points: OperatingPoints  # best score thresholds, and the confusions there


@dataclass(frozen=True)
class Difference:
    """Detections of both sides in an image in which they differ."""

    image_id: int
    reference: Sequence[Entry]
    other: Sequence[Entry]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that the table, the JSON file and the report are made of; the first side is the reference."""

    ground_truth: GroundTruth
    versions: dict[str, str | None]  # of what computed the metrics
    sides: tuple[Side, ...]
    comparisons: tuple[Comparison, ...]  # of each further side with the reference
    differences: tuple[tuple[Difference, ...], ...]  # of each comparison, its worst images


@dataclass(frozen=True)
class Run:
    """Data that all sources of an evaluation share."""

    ground_truth: GroundTruth
    options: EvaluationOptions
    on_progress: OnProgress
    detector: "Detector | None" = None  # None: `detect`, in this process


Detector = Callable[[Predictor, Path, str, Run], tuple[list[Entry], dict[str, Any], int]]
"""Runs a model on all images, as `detect` does."""


class _Found(NamedTuple):
    """Results of a source, before they are evaluated."""

    entries: list[Entry]
    path: Path  # results file
    note: str
    settings: dict[str, Any]
    reused: int = 0


def evaluate(
    sources: Sequence[Source],
    ground_truth: GroundTruth,
    options: EvaluationOptions,
    on_progress: OnProgress,
    detector: Detector | None = None,
) -> Evaluation:
    """Run, or read, every source, evaluate it, and compare it with the first.

    At most the results of two sources are held at a time. Inputs that cannot be used are found before the first image.

    Raises:
        CondInstError: a model, an image or a results file cannot be used.
    """
    run = Run(ground_truth, options, on_progress, detector)
    names = unique_names([source.path for source in sources])
    check_outputs(sources, ground_truth.annotations, options.out)
    check_library(options.fast)
    _check_other_sources(sources, run)
    first, entries = _side(sources[0], names[0], run)
    reference = by_image(entries)
    others = [_against(reference, source, name, run) for source, name in zip(sources[1:], names[1:], strict=True)]
    return Evaluation(
        ground_truth,
        metric_versions(options.fast),
        sides=(first, *(side for side, _, _ in others)),
        comparisons=tuple(comparison for _, comparison, _ in others),
        differences=tuple(differences for _, _, differences in others),
    )


def detect(predictor: Predictor, source: Path, name: str, run: Run) -> tuple[list[Entry], dict[str, Any], int]:
    """Run a model on every image that its journal does not have yet.

    Args:
        predictor: the model.
        source: its file.
        name: what it is called in this evaluation.
        run: data set and options.

    Returns:
        All results with the data set's ids, all that they depend on, and how many images the journal had.

    Raises:
        ConfigError: the model's classes are not the data set's.
        DataError: an image has another size than annotated.
        ImageError: an image cannot be read.
    """
    ground_truth, options = run.ground_truth, run.options
    category_ids = ground_truth.category_ids_of(predictor.manifest, str(source))
    images = list(zip(ground_truth.image_ids, ground_truth.paths, strict=True))
    settings, states = run_settings(predictor, source, ground_truth, options), images_with_states(ground_truth)
    folder = options.out / JOURNALS
    with Journal(folder, source.name, settings, states, predictor.window, options.fresh) as journal:
        reused = journal.finished
        run.on_progress(name, reused, len(images))
        with closing(detect_each(predictor, images[reused:])) as results:
            for image_id, prediction, found in results:
                ground_truth.check_size(prediction.name, found.masks.size, image_id)
                with observed(options.observer, ENCODE, (prediction.name,)):
                    entries = replace(found, category_ids=category_ids).to_coco(image_id)
                with observed(options.observer, JOURNAL, (prediction.name,)):
                    journal.add(image_id, entries)
                run.on_progress(name, journal.finished, len(images))
        return list(journal.entries()), with_images(settings, states), reused


def _check_other_sources(sources: Sequence[Source], run: Run) -> None:
    """Open every source except the first, which runs next, and close it again.

    So a results file is read twice and a model is loaded twice. This takes seconds; the first model may take hours.
    """
    what, further = "looking at what was given", sources[1:]
    for done, source in enumerate(further):
        run.on_progress(what, done, len(further))
        if source.is_model:
            with _predictor(source, run.options) as predictor:
                run.ground_truth.category_ids_of(predictor.manifest, str(source.path))
        else:
            read_results(source.path, run.ground_truth)
    if further:
        run.on_progress(what, len(further), len(further))


def _predictor(source: Source, options: EvaluationOptions) -> Predictor:
    return Predictor(
        source.path,
        device=options.device,
        score_threshold=options.score_threshold,
        batch_size=options.batch_size,
        observer=options.observer,
        inputs=InputOptions(keep_images=False),
        precision=precision_for(source.path, options.precision),
        canvases=options.canvases,
    )


def _side(source: Source, name: str, run: Run) -> tuple[Side, list[Entry]]:
    found = _run_model(source, name, run) if source.is_model else _read(source, run)
    coco: dict[Kind, CocoEvaluation] = {}
    kinds = kinds_of(found.entries, run.ground_truth)
    for done, kind in enumerate(kinds):
        run.on_progress(f"{name}: average precision", done, len(kinds))
        scope = Scope(run.ground_truth.image_ids, run.options.fast)
        with observed(run.options.observer, AVERAGE_PRECISION, ()):
            coco[kind] = evaluate_coco(run.ground_truth.coco, found.entries, kind, scope)
    run.on_progress(f"{name}: average precision", len(kinds), len(kinds))
    points = operating_points(found.entries, run.ground_truth, found.settings.get("score_threshold") or 0.0)
    side = Side(name, found.note, found.settings, found.reused, found.path, len(found.entries), coco, points)
    return side, found.entries


def _run_model(source: Source, name: str, run: Run) -> _Found:
    with _predictor(source, run.options) as predictor:
        note = f"{predictor.backend.name} on {predictor.backend.device}, {predictor.manifest.precision}"
        entries, settings, reused = (run.detector or detect)(predictor, source.path, name, run)
    if reused:
        note += f"; {reused} of {counted(len(run.ground_truth), 'image')} from the journal"
    path = results_path(run.options.out, name)
    with coco_results(path) as writer:
        writer.add_entries(entries)
    return _Found(entries, path, note, settings, reused)


def _read(source: Source, run: Run) -> _Found:
    entries = read_results(source.path, run.ground_truth)
    threshold = run.options.score_threshold
    kept = [entry for entry in entries if threshold is None or entry["score"] > threshold]
    settings = {"file": source.path.name, "sha256": sha256_of(source.path), "score_threshold": threshold}
    return _Found(kept, source.path, "results file", settings)


def _against(
    reference: Mapping[int, Sequence[Entry]], source: Source, name: str, run: Run
) -> tuple[Side, Comparison, tuple[Difference, ...]]:
    side, entries = _side(source, name, run)
    other, images = by_image(entries), len(run.ground_truth)
    what, done = f"{name}: agreement", 0
    run.on_progress(what, done, images)

    def on_image() -> None:
        nonlocal done
        done += 1
        run.on_progress(what, done, images)

    with observed(run.options.observer, MATCHING, ()):
        comparison = compare(reference, other, run.ground_truth.image_ids, on_image)
    worst = [image.image_id for image in comparison.worst]
    return side, comparison, tuple(Difference(i, reference.get(i, ()), other.get(i, ())) for i in worst)
