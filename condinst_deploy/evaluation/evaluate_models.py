"""Evaluate models and results files: metrics, comparison with the first, report, files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condinst_deploy.evaluation.evaluation_report import Verdict, figures_json, write_html
from condinst_deploy.evaluation.evaluator import Detector, Evaluation, OnProgress
from condinst_deploy.evaluation.evaluator import evaluate as evaluate_sources
from condinst_deploy.evaluation.gate import failures
from condinst_deploy.evaluation.ground_truth import GroundTruth, crowding_note, load_ground_truth
from condinst_deploy.evaluation.sources import (
    METRICS,
    REPORT,
    EvaluationOptions,
    Source,
    checked_sources,
    results_path,
    unique_names,
)
from condinst_deploy.runtime.coco_results import write_json
from condinst_deploy.support.atomic_write import check_writable
from condinst_deploy.support.folder_lock import locked_folder
from condinst_deploy.support.option_types import checked_arguments


@dataclass(frozen=True)
class EvaluationHooks:
    """Functions that an evaluation calls.

    Attributes:
        on_stage: what begins now.
        on_ground_truth: the annotations were read.
        on_progress: what is being done, how much of it is done, and of how much.
        detector: runs a model on all images; None: in this process.
        on_note: what a user should know before it begins.
    """

    on_stage: Callable[[str], None] = lambda stage: None
    on_ground_truth: Callable[[GroundTruth], None] = lambda ground_truth: None
    on_progress: OnProgress = lambda what, done, of: None
    detector: Detector | None = None
    on_note: Callable[[str], None] = lambda note: None


@dataclass(frozen=True, eq=False)
class EvaluatedModels:
    """Results of an evaluation.

    Attributes:
        evaluation: metrics of each side, and comparisons with the first.
        verdict: whether the gate passed.
        metrics: the content of figures.json, plain JSON values.
        report: the HTML report, absolute.
    """

    evaluation: Evaluation
    verdict: Verdict
    metrics: dict[str, Any]
    report: Path


@checked_arguments
def evaluate(
    annotations: str | Path,
    images: str | Path | None = None,
    models: Sequence[str | Path] = (),
    results: Sequence[str | Path] = (),
    options: EvaluationOptions | None = None,
    hooks: EvaluationHooks | None = None,
) -> EvaluatedModels:
    """Evaluate models and results files on a COCO-format data set, and compare each with the first.

    Writes report.html, figures.json and NAME.results.json into `options.out`. An interrupted evaluation goes on where
    it stopped, and ends with the same numbers.

    Args:
        annotations: COCO annotation file with the ground truth.
        images: folder of its images; models need it.
        models: model files (.pth, .onnx, .engine); the first is the reference.
        results: COCO results files; they come after the models.
        options: how it is run.
        hooks: functions that the evaluation calls.

    Raises:
        CondInstError: a model, an image, an annotation file or a results file cannot be used; the subclass says which.
    """
    options, hooks = options or EvaluationOptions(), hooks or EvaluationHooks()
    annotations, folder = Path(annotations), None if images is None else Path(images)
    sources = checked_sources([*map(Path, models)], [*map(Path, results)], annotations, folder, options)
    check_writable(options.out / REPORT)
    hooks.on_stage("reading the annotations")
    ground_truth = load_ground_truth(annotations, folder, options.limit, options.ignored_classes)
    hooks.on_ground_truth(ground_truth)
    for note in ground_truth.notes:
        hooks.on_note(note)
    if not options.fast and (note := crowding_note(ground_truth)):
        hooks.on_note(note)
    with locked_folder(options.out), _mixed_results_named(sources, options.out, hooks.on_note):
        evaluation = evaluate_sources(sources, ground_truth, options, hooks.on_progress, hooks.detector)
        verdict = Verdict(options.gate, () if options.gate is None else tuple(failures(evaluation, options.gate)))
        metrics = figures_json(evaluation, verdict, options.per_class)
        write_json(options.out / METRICS, metrics)
        hooks.on_stage("drawing the report")
        report = options.out / REPORT
        write_html(report, evaluation, verdict, options.per_class)
    return EvaluatedModels(evaluation, verdict, metrics, report.absolute())


@contextmanager
def _mixed_results_named(sources: Sequence[Source], out: Path, on_note: Callable[[str], None]) -> Iterator[None]:
    """Where an evaluation fails, say which results files it replaced beside the metrics of an earlier one."""
    names = unique_names([source.path for source in sources])
    paths = [results_path(out, name) for source, name in zip(sources, names, strict=True) if source.is_model]
    before = {path: _state(path) for path in (*paths, out / METRICS)}
    try:
        yield
    except BaseException:
        replaced = [path.name for path in paths if _state(path) != before[path]]
        if replaced and before[out / METRICS] is not None and _state(out / METRICS) == before[out / METRICS]:
            on_note(
                f"this evaluation failed: in {out} it replaced {', '.join(replaced)}; {METRICS} and {REPORT} are of an"
                " earlier one"
            )
        raise


def _state(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None: there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
