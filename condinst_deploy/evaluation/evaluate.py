"""An evaluation from end to end: models and results files in, figures and comparisons out."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from condinst_deploy.errors import ConfigError, DataError
from condinst_deploy.evaluation.coco import CocoEvaluation, Entry, Kind, Scope, detect_each, evaluate_coco
from condinst_deploy.evaluation.comparison import Comparison, compare
from condinst_deploy.evaluation.journal import Journal
from condinst_deploy.evaluation.results import by_picture, kinds_of, read_results
from condinst_deploy.evaluation.truth import Truth
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.results import coco_results

JOURNALS = "journals"
LIBRARIES = ("condinst-deploy", "numpy", "onnxruntime-gpu", "pillow", "tensorrt", "torch", "torchvision")
"""Whose versions the numbers may depend on."""

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True)
class Source:
    """Where results come from: a model to run, or a results file."""

    path: Path
    is_model: bool


@dataclass(frozen=True)
class Options:
    """How an evaluation is run."""

    out: Path
    device: str = "auto"
    batch_size: int | None = None
    score_threshold: float | None = None  # keep scores above; None: the models' own
    fast: bool = False  # faster-coco-eval


@dataclass(frozen=True, eq=False)
class Side:
    """Figures of one source."""

    name: str  # unique in an evaluation
    note: str  # how it was run
    results: Path  # its COCO results file
    detections: int
    coco: dict[Kind, CocoEvaluation]


@dataclass(frozen=True)
class Difference:
    """What both sides found in a picture in which they differ."""

    image_id: int
    reference: Sequence[Entry]
    other: Sequence[Entry]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that the table, the JSON file and the report are made of; the first side is the reference."""

    truth: Truth
    sides: tuple[Side, ...]
    comparisons: tuple[Comparison, ...]  # of each further side with the reference
    differences: tuple[tuple[Difference, ...], ...]  # of each comparison, its worst pictures


def evaluate(sources: Sequence[Source], truth: Truth, options: Options, on_progress: OnProgress) -> Evaluation:
    """Run, or read, every source, evaluate it, and compare it with the first.

    Results of two sources are held at a time.

    Raises:
        CondInstError: a model, a picture or a results file cannot be used.
    """
    names = unique_names([source.path for source in sources])
    first, entries = _side(sources[0], names[0], truth, options, on_progress)
    reference = by_picture(entries)
    others = [
        _against(reference, source, name, truth, options, on_progress)
        for source, name in zip(sources[1:], names[1:], strict=True)
    ]
    return Evaluation(
        truth,
        sides=(first, *(side for side, _, _ in others)),
        comparisons=tuple(comparison for _, comparison, _ in others),
        differences=tuple(differences for _, _, differences in others),
    )


def detect(predictor: Predictor, source: Path, truth: Truth, options: Options, on_progress: OnProgress) -> list[Entry]:
    """Run a model on every picture that its journal does not have yet; all results, with the data set's ids.

    Raises:
        ConfigError: the model's classes are not the data set's.
        DataError: a picture has another size than annotated.
        ImageError: a picture cannot be read.
    """
    category_ids = truth.category_ids_of(predictor.manifest, str(source))
    pictures = list(zip(truth.image_ids, truth.paths, strict=True))
    settings = _settings(predictor, source, truth, options)
    with Journal(options.out / JOURNALS, source.name, settings, truth.image_ids, predictor.window) as journal:
        on_progress(source.name, journal.finished, len(pictures))
        for image_id, prediction, found in detect_each(predictor, pictures[journal.finished :]):
            truth.check_size(prediction.name, found.masks.size, image_id)
            journal.add(image_id, replace(found, category_ids=category_ids).to_coco(image_id))
            on_progress(source.name, journal.finished, len(pictures))
        return list(journal.entries())


def unique_names(paths: Sequence[Path]) -> list[str]:
    """File names, with as much of the folders as tells them apart, and a number where that is not enough."""
    names: list[str] = []
    for i, path in enumerate(paths):
        others = [other for j, other in enumerate(paths) if j != i]
        parts = 1
        while parts < len(path.parts) and any(path.parts[-parts:] == other.parts[-parts:] for other in others):
            parts += 1
        name = "/".join(part.strip("/") for part in path.parts[-parts:])
        names.append(name if name not in names else f"{name} ({i + 1})")
    return names


def _side(
    source: Source, name: str, truth: Truth, options: Options, on_progress: OnProgress
) -> tuple[Side, list[Entry]]:
    if source.is_model:
        with Predictor(
            source.path, options.device, options.score_threshold, batch_size=options.batch_size
        ) as predictor:
            note = f"{predictor.backend.name} on {predictor.backend.device}, {predictor.manifest.precision}"
            entries = detect(predictor, source.path, truth, options, on_progress)
        path = options.out / f"{name.replace('/', '_')}.results.json"
        with coco_results(path) as writer:
            writer.add_entries(entries)
    else:
        path, note = source.path, "results file"
        entries = read_results(path, truth)
        threshold = options.score_threshold
        entries = [entry for entry in entries if threshold is None or entry["score"] > threshold]
    coco: dict[Kind, CocoEvaluation] = {}
    kinds = kinds_of(entries)
    for done, kind in enumerate(kinds):
        on_progress(f"{name}: average precision", done, len(kinds))
        coco[kind] = evaluate_coco(truth.coco, entries, kind, Scope(truth.image_ids, options.fast))
    on_progress(f"{name}: average precision", len(kinds), len(kinds))
    return Side(name, note, path, len(entries), coco), entries


def _against(
    reference: Mapping[int, Sequence[Entry]],
    source: Source,
    name: str,
    truth: Truth,
    options: Options,
    on_progress: OnProgress,
) -> tuple[Side, Comparison, tuple[Difference, ...]]:
    side, entries = _side(source, name, truth, options, on_progress)
    other = by_picture(entries)
    what, done = f"{name}: agreement", 0
    on_progress(what, done, len(truth))

    def on_picture() -> None:
        nonlocal done
        done += 1
        on_progress(what, done, len(truth))

    comparison = compare(reference, other, truth.image_ids, on_picture)
    worst = [picture.image_id for picture in comparison.worst]
    return side, comparison, tuple(Difference(i, reference.get(i, ()), other.get(i, ())) for i in worst)


def _settings(predictor: Predictor, source: Path, truth: Truth, options: Options) -> dict[str, Any]:
    """All that the numbers depend on."""
    backend = predictor.backend
    with source.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {
        "model": {"file": source.name, "sha256": digest, "manifest": predictor.manifest.to_json()},
        "backend": f"{backend.name} on {backend.device}",
        "batch_size": predictor.batch_size,
        "score_threshold": options.score_threshold,
        "annotations": truth.sha256,
        "pictures": _pictures_digest(truth),
        "versions": {library: _version(library) for library in LIBRARIES},
    }


def _pictures_digest(truth: Truth) -> str:
    """Of the pictures' places, sizes and times, for a picture may be replaced between two runs."""
    digest = hashlib.sha256()
    for image_id, path in zip(truth.image_ids, truth.paths, strict=True):
        state = path.stat()
        digest.update(f"{image_id} {path.resolve()} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _version(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def check_sources(sources: Sequence[Source], images: Path | None, gate: float | None) -> None:
    """See that an evaluation makes sense before anything long begins.

    Raises:
        ConfigError: nothing to evaluate, no pictures for a model, or nothing to compare for the gate.
        DataError: a results file is not there.
    """
    if not sources:
        raise ConfigError("nothing to evaluate: name models with --model, or results files with --results")
    if images is None and any(source.is_model for source in sources):
        raise ConfigError("--images is missing: the folder of the pictures that the models are to be run on")
    if gate is not None and len(sources) < 2:
        raise ConfigError("--gate compares with the first model or results file; name at least one more")
    if gate is not None and not 0 <= gate <= 100:
        raise ConfigError(f"--gate is {gate:g}; expected 0 to 100 AP points")
    missing = [str(source.path) for source in sources if not source.is_model and not source.path.is_file()]
    if missing:
        raise DataError(f"no results file at {', '.join(missing)}")
