"""`condinst-eval`: COCO's figures of models and results files, side by side, and how far they agree."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID
from rich.table import Table

from condinst_deploy.cli.command import FAILED, INTERRUPTED, command_app, progress_bar, terminal

if TYPE_CHECKING:
    from condinst_deploy.evaluation.evaluator import Detector, Evaluation, OnProgress
    from condinst_deploy.evaluation.report import Verdict
    from condinst_deploy.evaluation.sources import Source

LINE_SECONDS = 30.0
"""Between two lines where there is no terminal to draw a bar on."""


def evaluate(
    annotations: Annotated[Path, typer.Option(help="COCO annotation file with the ground truth.")],
    model: Annotated[
        list[Path] | None,
        typer.Option(help="Model file (checkpoint, .onnx, ...); give it several times. The first is the reference."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the annotated images; models need it.")] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(help="COCO results file from anywhere; several times, too. They come after the models."),
    ] = None,
    gate: Annotated[
        float | None, typer.Option(help="Fail when an AP differs from the reference's by more; AP points, 0 to 100.")
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show the AP of each class, too.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Take the first so many images.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images of equal padded shape run at once. Default: 1 on a CPU, 8 on a GPU.")
    ] = None,
    score_threshold: Annotated[
        float | None, typer.Option(help="Keep scores above it; at least the models' own. Default: the models' own.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report, figures, results and journals.")] = Path("evaluation"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Run every image anew, whatever an interrupted or earlier run left.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    fast: Annotated[bool, typer.Option("--fast", help="Compute AP with faster-coco-eval (extra fast-eval).")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Run the models on Ray (extra ray), on this machine.")] = False,
    ray_address: Annotated[
        str | None, typer.Option(help="Run the models on this Ray cluster: HOST:PORT, or 'auto'.")
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option(min=1, help="Workers on Ray. Default: as many as there is room for.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON on standard output.")] = False,
) -> None:
    """Evaluate models on a COCO-format data set and compare them with the first.

    Writes report.html, figures.json and NAME.results.json (COCO results) into the folder. Ctrl-C, or a power cut,
    costs nothing that was finished: the same command goes on, and ends with the same numbers. Of a command with one
    more model only that model runs; --fresh runs all anew.

    Exit status: 0 done and gate passed, 1 gate failed or an error, 2 wrong usage, 130 interrupted.
    """
    from condinst_deploy.evaluation.sources import METRICS, REPORT, Options, Source, check_outputs, check_sources

    sources = [Source(path, is_model=True) for path in model or []]
    sources += [Source(path, is_model=False) for path in results or []]
    check_sources(sources, images, gate)
    check_outputs(sources, annotations, out)
    # imported here, so that neither --help nor a mistake waits for the backends
    from condinst_deploy.evaluation.evaluator import evaluate as run
    from condinst_deploy.evaluation.gate import failures
    from condinst_deploy.evaluation.ground_truth import load_ground_truth
    from condinst_deploy.evaluation.report import Verdict, figures_json, write_html
    from condinst_deploy.runtime.coco_results import write_json

    options = Options(out, device, batch_size, score_threshold, fast, fresh)
    detector = _detector(ray, ray_address, ray_workers)
    with terminal.status("reading the annotations"):
        ground_truth = load_ground_truth(annotations, images, limit)
    terminal.print(f"{len(ground_truth)} images, {len(ground_truth.class_names)} classes: {escape(str(annotations))}")
    with _explained_interruption(sources, fresh), progress_bar() as progress:
        evaluation = run(sources, ground_truth, options, _on_progress(progress), detector)
    verdict = Verdict(gate, () if gate is None else tuple(failures(evaluation, gate)))
    metrics = figures_json(evaluation, verdict, per_class)
    write_json(out / METRICS, metrics)
    with terminal.status("drawing the report"):
        write_html(out / REPORT, evaluation, verdict, per_class)
    _print(evaluation, verdict, metrics, per_class, as_json, (out / REPORT).absolute())
    if verdict.failures:
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
def _explained_interruption(sources: Sequence["Source"], fresh: bool) -> Iterator[None]:
    """Say how an interrupted run goes on."""
    try:
        yield
    except KeyboardInterrupt as e:
        command = "the same command without --fresh" if fresh else "the same command"
        again = f"; {command} goes on where it stopped" if any(source.is_model for source in sources) else ""
        terminal.print(f"interrupted{again}")
        raise typer.Exit(INTERRUPTED) from e


def _on_progress(progress: Any) -> "OnProgress":
    """A bar for each thing to do; images that an earlier run finished do not count for the time that is left.

    Where there is no terminal to draw on, a line from time to time.
    """
    tasks: dict[str, TaskID] = {}
    told = time.monotonic()

    def on_progress(what: str, done: int, of: int) -> None:
        nonlocal told
        if what not in tasks:
            tasks[what] = progress.add_task(escape(what), total=of, completed=done)
            if done:
                terminal.print(f"{escape(what)}: {done} of {of} images were finished before")
        progress.update(tasks[what], completed=done)
        if not terminal.is_terminal and time.monotonic() - told >= LINE_SECONDS:
            terminal.print(f"{escape(what)}: {done} of {of}")
            told = time.monotonic()

    return on_progress


def _print(
    evaluation: "Evaluation", verdict: "Verdict", metrics: dict[str, Any], per_class: bool, as_json: bool, report: Path
) -> None:
    from condinst_deploy.evaluation.gate import compared

    if as_json:
        print(json.dumps(metrics, indent=2))
    else:
        console = Console(highlight=False, emoji=False)
        console.print(_table(evaluation, per_class))
        for comparison in metrics["comparisons"]:
            console.print(_agreement_line(comparison), soft_wrap=True)
        console.print(f"report: {escape(str(report))}", soft_wrap=True)
    for failure in verdict.failures:
        terminal.print(f"[bold red]gate failed:[/] {escape(str(failure))}")
    if verdict.limit is not None and not verdict.failures:
        terminal.print(f"gate passed: no {compared(evaluation)} differs by more than {verdict.limit:g} points")


def _table(evaluation: "Evaluation", per_class: bool) -> Table:
    from condinst_deploy.evaluation.report import class_table, metrics_table

    table = Table("AP points", *(escape(side.name) for side in evaluation.sides), show_edge=False, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
        column.overflow = "fold"
    for name, row in metrics_table(evaluation):
        table.add_row(name, *map(_cell, row), end_section=name.endswith("AR large"))
    if per_class:
        for name, kind, row in class_table(evaluation):
            table.add_row(f"{escape(name)} {kind} AP", *map(_cell, row))
    return table


def _cell(cell: tuple[float | None, float | None]) -> str:
    from condinst_deploy.evaluation.wording import change_text

    value, change = cell
    shown = "-" if value is None else f"{value:.2f}"
    return shown if change is None else f"{shown} ({change_text(change)})"


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
    return escape(line)


main = command_app(evaluate)
