"""`condinst-eval`: COCO's metrics of models and results files, side by side, and how far they agree."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, TaskID
from rich.table import Table

from condinst_deploy.cli.command import (
    FAILED,
    SCORE_THRESHOLD_HELP,
    BatchSizeOption,
    CanvasOption,
    DeviceOption,
    Precision,
    RayWorkersOption,
    canvases_of,
    command_app,
    labelled,
    print_json,
    progress_bar,
    results_console,
    terminal,
)
from condinst_deploy.cli.progress import ProgressLines
from condinst_deploy.evaluation.sources import EvaluationOptions, checked_sources
from condinst_deploy.evaluation.wording import metric_text
from condinst_deploy.shown_text import counted
from condinst_deploy.support.signals import exit_status

if TYPE_CHECKING:
    from condinst_deploy.evaluation.evaluate_models import EvaluatedModels, EvaluationHooks
    from condinst_deploy.evaluation.evaluator import Detector, Evaluation
    from condinst_deploy.evaluation.ground_truth import GroundTruth

MOST_COLUMNS = 8
"""Most columns of a confusion table on the terminal; for more classes the largest confusions are listed."""


def evaluate(
    annotations: Annotated[Path, typer.Option(help="COCO annotation file with the ground truth.")],
    model: Annotated[
        list[Path] | None,
        typer.Option(help="Model file (checkpoint, .onnx, ...); repeat it for several. The first is the reference."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the annotated images; models need it.")] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(help="COCO results file from any framework; repeat it for several. Models come first."),
    ] = None,
    gate: Annotated[
        float | None, typer.Option(help="Fail when an AP differs from the reference's by more; AP points, 0 to 100.")
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show the AP of each class, too.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of images to evaluate, from the first on.")] = None,
    ignore_class: Annotated[
        list[str] | None,
        typer.Option(help="Leave out the objects of this class of the data, which the models lack; repeat it."),
    ] = None,
    batch_size: BatchSizeOption = None,
    score_threshold: Annotated[float | None, typer.Option(help=SCORE_THRESHOLD_HELP)] = None,
    out: Annotated[Path, typer.Option(help="Folder for report, metrics, results and journals.")] = Path("evaluation"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run all images again and ignore the results of earlier runs.")
    ] = False,
    device: DeviceOption = "auto",
    precision: Annotated[
        Precision | None,
        typer.Option(help="Precision of the checkpoints' networks; other files have their own. Default: float32."),
    ] = None,
    canvas: CanvasOption = None,
    fast: Annotated[bool, typer.Option("--fast", help="Compute AP with faster-coco-eval (extra eval).")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Run the models on Ray (extra ray), on this machine.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="Run the models on this Ray cluster: HOST:PORT, or 'auto'.")
    ] = None,
    ray_workers: RayWorkersOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all metrics as JSON on standard output.")] = False,
) -> None:
    """Evaluate models on a COCO-format data set and compare them with the first.

    Writes report.html, figures.json and NAME.results.json (COCO results) into the folder. Ctrl-C, or a power cut,
    costs nothing that was finished: the same command goes on, and ends with the same numbers. Of a command with one
    more model only that model runs; --fresh runs all again.

    Exit status: 0 done and gate passed, 1 gate failed or an error, 2 wrong usage, 130 interrupted.
    """
    options = EvaluationOptions(
        out,
        device,
        batch_size,
        score_threshold,
        fast,
        fresh,
        gate,
        per_class,
        limit,
        precision=None if precision is None else precision.value,
        canvases=canvases_of(canvas),
        ignored_classes=tuple(dict.fromkeys(ignore_class or [])),
    )
    checked_sources(model or [], results or [], annotations, images, options)
    detector = _detector(ray, ray_address, ray_workers)
    # PyTorch takes seconds to import: only after the arguments were checked
    from condinst_deploy.evaluation.evaluate_models import evaluate as evaluate_models

    with _explained_interruption(bool(model), fresh), progress_bar() as progress:
        hooks = _hooks(progress, detector)
        found = evaluate_models(annotations, images, model or [], results or [], options, hooks)
    if as_json:
        print_json(found.metrics, "the metrics")
    else:
        _print(found, per_class)
    _print_verdict(found)
    if found.verdict.failures:
        raise typer.Exit(FAILED)


def _detector(ray: bool, address: str | None, workers: int | None) -> "Detector | None":
    """None: models run in this process."""
    if not ray and address is None and workers is None:
        return None
    from condinst_deploy.serving.ray_evaluation import RayDetector
    from condinst_deploy.serving.ray_session import RayOptions, check_ray

    check_ray()
    return RayDetector(RayOptions(address, workers))


@contextmanager
def _explained_interruption(has_models: bool, fresh: bool) -> Iterator[None]:
    """Say how an interrupted run goes on."""
    try:
        yield
    except KeyboardInterrupt as e:
        command = "the same command without --fresh" if fresh else "the same command"
        again = f"; {command} goes on where it stopped" if has_models else ""
        terminal.print(f"interrupted{again}")
        raise typer.Exit(exit_status(e)) from e


def _hooks(progress: Progress, detector: "Detector | None") -> "EvaluationHooks":
    """A bar for each thing to do; images that an earlier run finished do not count for the time that is left.

    Without a terminal, a line from time to time.
    """
    from condinst_deploy.evaluation.evaluate_models import EvaluationHooks

    stages = progress.add_task("", total=None, visible=False)
    tasks: dict[str, TaskID] = {}
    lines = ProgressLines()

    def on_progress(what: str, done: int, of: int) -> None:
        if what not in tasks:
            tasks[what] = progress.add_task(what, total=of, completed=done)
            if done:
                terminal.print(f"{what}: {done} of {counted(of, 'image')} finished before")
        progress.update(tasks[what], completed=done)
        lines.update(what, done, of)

    def on_ground_truth(ground_truth: "GroundTruth") -> None:
        progress.update(stages, visible=False)
        terminal.print(
            f"{counted(len(ground_truth), 'image')}, {counted(len(ground_truth.class_names), 'class')}:"
            f" {ground_truth.annotations}"
        )
        if not ground_truth.has_masks:
            terminal.print("it has no masks: boxes alone are evaluated")

    def on_stage(stage: str) -> None:
        progress.update(stages, description=stage, visible=True)

    return EvaluationHooks(on_stage, on_ground_truth, on_progress, detector, terminal.print)


def _print(found: "EvaluatedModels", per_class: bool) -> None:
    console = results_console()
    console.print(_table(found.evaluation, per_class), soft_wrap=False)
    for part in _threshold_tables(found.evaluation, per_class):
        console.print("")
        console.print(part, soft_wrap=isinstance(part, str))
    for comparison in found.metrics["comparisons"]:
        console.print(_agreement_line(comparison))
    console.print(f"report: {found.report}")


def _print_verdict(found: "EvaluatedModels") -> None:
    from condinst_deploy.evaluation.gate import compared

    verdict = found.verdict
    for failure in verdict.failures:
        terminal.print(labelled("gate failed:", "bold red", failure))
    if verdict.limit is not None and not verdict.failures:
        terminal.print(f"gate passed: no {compared(found.evaluation)} differs by more than {verdict.limit:g} points")


def _table(evaluation: "Evaluation", per_class: bool) -> Table:
    from condinst_deploy.evaluation.evaluation_report import class_table, metrics_table

    table = Table("AP points", *(side.name for side in evaluation.sides), show_edge=False, pad_edge=False)
    _right_aligned(table)
    for name, row in metrics_table(evaluation):
        table.add_row(name, *map(metric_text, row), end_section=name.endswith("AR large"))
    if per_class:
        for name, kind, row in class_table(evaluation):
            table.add_row(f"{name} {kind} AP", *map(metric_text, row))
    return table


def _threshold_tables(evaluation: "Evaluation", per_class: bool) -> Iterator[Table | str]:
    """Best thresholds of every side and, of the first side, its confusions below their title."""
    from condinst_deploy.evaluation.threshold_tables import COLUMNS, confusion_table, confusion_title, threshold_rows

    per_class = per_class or len(evaluation.ground_truth.class_names) <= MOST_COLUMNS
    for side in evaluation.sides:
        best = Table(f"best F1 of {side.name}", *COLUMNS, show_edge=False, pad_edge=False)
        for name, row in threshold_rows(side, evaluation.ground_truth, per_class):
            best.add_row(name, *row)
        yield _right_aligned(best)
    for side in evaluation.sides[:1]:
        found = confusion_table(side.points, evaluation)
        whole = bool(found.columns) and len(found.columns) <= MOST_COLUMNS
        yield confusion_title(side, whole)
        if whole:
            counts = Table("annotated \\ found", *found.columns, show_edge=False, pad_edge=False)
            for name, numbers in found.rows:
                counts.add_row(name, *map(str, numbers))
        else:
            counts = Table("annotated", "found", "count", show_edge=False, pad_edge=False)
            for annotated, other, count in found.largest[:MOST_COLUMNS]:
                counts.add_row(annotated, other, str(count))
        yield _right_aligned(counts)


def _right_aligned(table: Table) -> Table:
    for column in table.columns[1:]:
        column.justify = "right"
        column.overflow = "fold"
    return table


def _agreement_line(comparison: dict[str, Any]) -> str:
    from condinst_deploy.evaluation.wording import iou_text, percent_text

    metrics = comparison["agreement"]
    line = (
        f"{comparison['name']} against {comparison['reference']}: {percent_text(metrics['matched_share'])} of the"
        f" detections matched ({metrics['matched']} pairs of {metrics['reference']} and {metrics['other']})"
    )
    if metrics["matched"]:
        line += (
            f", boxes within {metrics['box_error_px']['max']:.2g} px, scores within {metrics['score_error']['max']:.2g}"
        )
    if metrics["mask_iou"]["median"] is not None:
        median, lowest = (iou_text(metrics["mask_iou"][name]) for name in ("median", "min"))
        line += f", mask IoU median {median}, lowest {lowest}"
    return line


main = command_app(evaluate)
