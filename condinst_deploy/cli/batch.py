"""`condinst-batch`: detect instances in a large input, shard by shard, in one process or on Ray."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress, TextColumn

from condinst_deploy.cli.command import (
    FAILED,
    SCORE_THRESHOLD_HELP,
    BatchSizeOption,
    CanvasOption,
    ClassesOption,
    DeviceOption,
    MaxDetectionsOption,
    Pixels,
    RayWorkersOption,
    canvases_of,
    class_names,
    command_app,
    labelled,
    print_json,
    print_line,
    progress_bar,
    terminal,
)
from condinst_deploy.cli.progress import ProgressLines
from condinst_deploy.errors import ConfigError
from condinst_deploy.shown_text import counted
from condinst_deploy.support.signals import exit_status

if TYPE_CHECKING:
    from condinst_deploy.serving.batch.batch_driver import Plan
    from condinst_deploy.serving.batch.reporting import Event, OnEvent, Totals
    from condinst_deploy.serving.ray_session import RayOptions


class Format(StrEnum):
    """Format of the parts."""

    PARQUET, COCO = "parquet", "coco"


def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="Folder with its subfolders, pattern ('pics/**/*.jpg'), list file (.txt, one path a line), .parquet"
            " file with image contents or paths; or a URL of one of them (s3://, gs://, ...).",
        ),
    ],
    model: Annotated[Path, typer.Option(help="Model file: .onnx, .engine or a checkpoint (.pth, .pt).")],
    out: Annotated[str, typer.Option(help="Folder or URL for the parts; the same command continues a run.")],
    output_format: Annotated[
        Format, typer.Option("--format", help="parquet: a row for each image. coco: COCO data sets with scores.")
    ] = Format.PARQUET,
    shard_size: Annotated[
        int | None, typer.Option(help="Images of a part. If a worker dies, its part is repeated. Default: 512.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Parquet input: column of contents or paths. Default: the first known name.")
    ] = None,
    device: DeviceOption = "auto",
    score_threshold: Annotated[float | None, typer.Option(help=SCORE_THRESHOLD_HELP)] = None,
    classes: ClassesOption = None,
    max_detections: MaxDetectionsOption = None,
    batch_size: BatchSizeOption = None,
    pixels: Annotated[Pixels, typer.Option(help="How images are decoded and resized; see condinst-predict.")] = (
        Pixels.EXACT
    ),
    canvas: CanvasOption = None,
    ray: Annotated[bool, typer.Option("--ray", help="Run on Ray, also without the options below.")] = False,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster, HOST:PORT or 'auto'. Default: processes on this machine.")
    ] = None,
    workers: RayWorkersOption = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(help="GPUs of a worker; 0.5 puts two workers on a GPU. Default: 1 if there are GPUs."),
    ] = None,
    cpus_per_worker: Annotated[float | None, typer.Option(help="CPU cores of a worker. Default: 1.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON on standard output.")] = False,
) -> None:
    """Find instances in the images of a large input.

    Writes part-NNNNNNNN.parquet (or .json), one for each shard of the input, and run.json, which says what the rows
    depend on. A part that exists is done: after Ctrl-C, SIGTERM, a crash or a power cut the same command continues.
    An image that cannot be read is a row with an error and a reason; it does not change the exit status.

    Exit status: 0 done, 1 an error or a shard without a part, 2 wrong usage, 130 interrupted by Ctrl-C, 143 by SIGTERM.
    """
    from condinst_deploy.serving.batch.batch_options import SHARD_SIZE, BatchOptions, DetectionOptions
    from condinst_deploy.support.remote_files import absolute

    detection = DetectionOptions(
        device,
        score_threshold,
        class_names(classes),
        max_detections,
        batch_size,
        pixels.value,
        canvases=canvases_of(canvas),
    )
    size = SHARD_SIZE if shard_size is None else shard_size
    options = BatchOptions(
        absolute(source), model.absolute(), absolute(out), detection, output_format.value, size, column
    )
    placement = _placement(ray, address, workers, gpus_per_worker, cpus_per_worker)
    # imported here, so that neither --help nor a mistake waits for the backends
    from condinst_deploy.serving.batch.batch_driver import planned

    outcome = Outcome(out)
    try:
        with planned(options, terminal.print) as plan:
            outcome.begin(plan)
            _run(plan, placement, outcome)
    except KeyboardInterrupt:
        outcome.interrupted = True
    _report(outcome, as_json)


def _placement(
    ray: bool, address: str | None, workers: int | None, gpus: float | None, cpus: float | None
) -> "RayOptions | None":
    """None: in this process."""
    if not ray and address is None and workers is None:
        if gpus is not None or cpus is not None:
            raise ConfigError("--gpus-per-worker and --cpus-per-worker are for Ray; add --ray, --workers or --address")
        return None
    from condinst_deploy.serving.ray_session import RayOptions, check_ray

    check_ray()
    return RayOptions(address, workers, gpus, 1.0 if cpus is None else cpus)


@dataclass
class Outcome:
    """Outcome of a run, complete or interrupted."""

    out: str
    images: int = 0
    shards: int = 0
    finished_before: int = 0  # shards
    totals: "Totals | None" = None
    started: float = field(default_factory=time.monotonic)
    interrupted: bool = False

    def begin(self, plan: "Plan") -> None:
        """Take note of what there is to do."""
        from condinst_deploy.serving.batch.reporting import Totals

        self.images, self.shards, self.finished_before = plan.images, plan.shards, len(plan.finished)
        self.totals = Totals()

    def summary(self) -> dict[str, Any]:
        """The run as JSON values; images, detections and seconds are of this run alone."""
        totals, seconds = self.totals, time.monotonic() - self.started
        counts = (
            {}
            if totals is None
            else {
                "images": totals.images,
                "failed": totals.failed,
                "detections": totals.detections,
                "parts": totals.shards,
                "redone": totals.redone,
                "failed_shards": totals.failed_shards,
            }
        )
        return {
            "out": self.out,
            "input_images": self.images,
            "input_shards": self.shards,
            "parts_before": self.finished_before,
            **counts,
            "interrupted": self.interrupted,
            "seconds": round(seconds, 3),
        }


def _run(plan: "Plan", placement: "RayOptions | None", outcome: Outcome) -> None:
    from condinst_deploy.serving.batch.batch_driver import run_here
    from condinst_deploy.serving.batch.reporting import EventLog
    from condinst_deploy.serving.batch.storage import LocalFolder, output_folder

    options, totals = plan.job.options, outcome.totals
    assert totals is not None
    where = (
        "in this process" if placement is None else f"on Ray{f' at {placement.address}' if placement.address else ''}"
    )
    terminal.print(f"{counted(plan.images, 'image')} in {counted(plan.shards, 'shard')}, {options.model} {where}")
    if plan.finished:
        terminal.print(f"finished before: {counted(len(plan.finished), 'shard')}")
    with ExitStack() as stack:
        shown = _Shown(plan, stack.enter_context(_progress()))
        listeners: list[OnEvent] = [totals, shown]
        folder = output_folder(options.out)
        if isinstance(folder, LocalFolder):
            listeners.append(stack.enter_context(EventLog(folder.path)))

        def on_event(event: "Event") -> None:
            for listener in listeners:
                listener(event)

        if placement is None:
            run_here(plan, on_event, shown.images_under_way)
        else:
            from condinst_deploy.serving.batch.ray_driver import run_on_ray

            run_on_ray(plan, placement, on_event, shown.images_under_way)


def _progress() -> Progress:
    """A bar on a terminal, with images per second and the time that is left."""
    return progress_bar(TextColumn("{task.fields[status]}", markup=False))


class _Shown:
    """Listener that prints events, and shows how far the run is: by a bar, or by a line from time to time."""

    def __init__(self, plan: "Plan", progress: Progress) -> None:
        self._total, self._done = plan.images, plan.finished_images
        self._progress, self._lines = progress, ProgressLines()
        self._task = progress.add_task("", total=self._total, completed=self._done, status="images")

    def __call__(self, event: "Event") -> None:
        """Show an event."""
        if event.kind == "ready":
            self._lines.update("images", self._done, self._total)  # the rate counts from the first worker that is ready
            terminal.print(f"worker {event.worker} is ready: {event.reason or ''}")
        elif event.kind == "waiting":
            terminal.print(event.reason or "")
        elif event.kind in ("lost", "failed"):
            what = (
                "a worker was lost"
                if event.shard is None
                else f"worker {event.worker} was lost with shard {event.shard}"
            )
            text = what if event.kind == "lost" else f"shard {event.shard} is left out"
            terminal.print(labelled(f"{text}:", "yellow", event.reason or ""))
        elif event.report is not None:
            self._done += event.report.images

    def images_under_way(self, images: int) -> None:
        """Take how many images of the shards under way are done."""
        done = self._done + images
        self._progress.update(self._task, completed=done, status=self._lines.update("images", done, self._total))


def _report(outcome: Outcome, as_json: bool) -> None:
    summary, totals = outcome.summary(), outcome.totals
    if as_json:
        print_json(summary)
    elif totals is not None:
        print_line(
            f"{counted(totals.images, 'image')}, {totals.failed} of them with an error,"
            f" {counted(totals.detections, 'detection')} in {counted(totals.shards, 'new part')};"
            f" {outcome.finished_before + totals.shards} of {counted(outcome.shards, 'part')}:"
            f" {outcome.out}"
        )
    if outcome.interrupted:
        terminal.print("interrupted; the parts that are there are whole, and the same command continues the run")
        raise typer.Exit(exit_status())
    if totals is not None and totals.failed_shards:
        for text in totals.failed_shards:
            terminal.print(labelled("error:", "bold red", text))
        raise typer.Exit(FAILED)


main = command_app(batch)
