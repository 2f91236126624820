"""`condinst-benchmark`: how fast a model file is on this machine, stage by stage, alone or beside another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from condinst_deploy.cli.command import (
    CanvasOption,
    DeviceOption,
    Pixels,
    PrecisionOption,
    canvases_of,
    command_app,
    labelled,
    print_json,
    progress_bar,
    results_console,
)
from condinst_deploy.cli.progress import ProgressLines
from condinst_deploy.contract.artifacts import check_precision_applies, check_there, model_kind
from condinst_deploy.shown_text import counted

if TYPE_CHECKING:
    from condinst_deploy.benchmarking.measure import Benchmark, OnCall
    from condinst_deploy.benchmarking.tables import Row


def benchmark(
    model: Annotated[Path, typer.Option(help="Model file: a checkpoint (.pth), .onnx or .engine.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMG_OR_DIR",
            help="Images, folders or patterns; at most 64 are used. Default: generated ones (--size, --seed).",
        ),
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="A second model file: both are timed in turn, and the ratios of times shown.")
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch size; several are separated by commas: 1,2,4.")] = "1",
    concurrency: Annotated[
        str,
        typer.Option(help="Threads that share one predictor, for throughput; several are separated by commas: 1,2."),
    ] = "1",
    repeat: Annotated[int, typer.Option(help="Timed calls of each setting.")] = 20,
    warmup: Annotated[
        int, typer.Option(help="Untimed calls before them; at least 2 of every padded shape, unless it is 0 or 1.")
    ] = 3,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Processor cores that the model gets, and threads of each library. Default: all that this process may"
            " use."
        ),
    ] = None,
    size: Annotated[str, typer.Option(help="WIDTHxHEIGHT of generated images.")] = "1333x800",
    seed: Annotated[int, typer.Option(help="Seed of generated images.")] = 0,
    device: DeviceOption = "auto",
    pixels: Annotated[
        Pixels, typer.Option(help="How images are decoded and resized: exact, fast or cuda, as for condinst-predict.")
    ] = Pixels.EXACT,
    precision: PrecisionOption = None,
    canvas: CanvasOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all metrics as JSON on standard output.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the metrics, too: a .png file (needs matplotlib).")] = None,
) -> None:
    """Measure time and memory of a model on this machine.

    Stages: decode (files only), resize and pad, network, masks and RLE. They are the stages of condinst-predict, run
    one after the other; end to end is their sum, from a file or an array to COCO RLEs at original size. Throughput is
    that of whole calls of the predictor.

    Each model runs in a separate process, so that memory and threads are its own. With --against both get every
    image in turn; a ratio of 0.5 means that --model takes half the time of --against.

    Close other programs first: on a busy machine times mean little, and ratios only roughly what they say.
    """
    # imported here, so that --help does not wait for the libraries
    from condinst_deploy.benchmarking.benchmark_images import given_images
    from condinst_deploy.benchmarking.benchmark_settings import Settings, cores_for, numbers_from, size_from
    from condinst_deploy.benchmarking.measure import calls_of, measure
    from condinst_deploy.benchmarking.plots import check_plot, draw_benchmark

    settings = Settings(
        device=device,
        batches=numbers_from(batch, "--batch"),
        concurrency=numbers_from(concurrency, "--concurrency"),
        repeat=repeat,
        warmup=warmup,
        cores=cores_for(threads),
        size=size_from(size),
        seed=seed,
        pixels=pixels.value,
        precision=None if precision is None else precision.value,
        canvases=canvases_of(canvas),
    )
    if plot is not None:
        check_plot(plot)
    models = [model] if against is None else [model, against]
    for each in models:
        model_kind(each)
        check_there(each)  # before the first one is loaded
    check_precision_applies(models, settings.precision)
    with progress_bar() as progress:
        on_call = _on_call(progress, calls_of(len(models), settings))
        result = measure(models, given_images(images or []), settings, on_call)
    if plot is not None:
        draw_benchmark(result, plot)
    if as_json:
        from condinst_deploy.benchmarking.tables import remarks

        print_json(result.to_dict() | {"remarks": remarks(result)}, "the metrics")
    else:
        _print(result)


def _on_call(progress: Any, calls: int) -> "OnCall":
    task, lines, done = progress.add_task("loading", total=calls), ProgressLines(), 0

    def on_call(what: str, count: int) -> None:
        nonlocal done
        done += count
        lines.update("calls", done, calls)
        progress.update(task, description=what, advance=count)

    return on_call


def _print(result: "Benchmark") -> None:
    from condinst_deploy.benchmarking.tables import memory_line, ratio_rows, remarks, serving_rows, stage_rows

    console = results_console()
    for metrics in result.models:
        loaded, machine = metrics.loaded, metrics.loaded["machine"]
        where = machine["gpu"] if loaded["device"].startswith("cuda") else machine["processor"]
        console.print(labelled(f"{metrics.model}:", "bold", f"{loaded['backend']}, {loaded['precision']}"))
        console.print(f"on {loaded['device']} ({where}), {counted(machine['cores'], 'core')}")
        columns = ("batch", "stage", "median ms", "p95", "p99", "share")
        console.print(_table(columns, list(stage_rows(metrics)), words=(1,)), soft_wrap=False)
        columns = ("batch", "concurrency", "images/s", "median ms", "p95", "p99")
        console.print(_table(columns, list(serving_rows(metrics))), soft_wrap=False)
        found = metrics.stages[0].detections
        console.print(f"{found:g} instances found an image; {memory_line(metrics)}")
        console.print()
    if result.ratios:
        names = " / ".join(metrics.model for metrics in result.models)
        console.print(labelled(f"time of {names},", "bold", "pair by pair: median, and its 95 % interval"))
        console.print(
            _table(("batch", "stage", "ratio", "interval"), list(ratio_rows(result)), words=(1,)), soft_wrap=False
        )
    for remark in remarks(result):
        console.print(f"note: {remark}")


def _table(columns: tuple[str, ...], rows: "list[Row]", words: tuple[int, ...] = ()) -> Table:
    """Numbers to the right, words to the left; a batch's first row alone names it."""
    table = Table(*columns, show_edge=False, pad_edge=False)
    for i, column in enumerate(table.columns):
        column.justify = "left" if i in words else "right"
    before = ""
    for name, *cells in rows:
        table.add_row("" if name == before else name, *cells)
        before = name
    return table


main = command_app(benchmark)
