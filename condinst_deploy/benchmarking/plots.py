"""Plot of a benchmark: the time of each stage, and throughput by number of threads."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from condinst_deploy.benchmarking.measure import END_TO_END, Benchmark, ModelMetrics
from condinst_deploy.benchmarking.tables import STAGE_NAMES
from condinst_deploy.errors import ConfigError
from condinst_deploy.support.atomic_write import atomic_path, check_writable
from condinst_deploy.support.extras import install_command

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def check_plot(path: Path) -> None:
    """Refuse what could not be drawn in the end, before anything is measured.

    Raises:
        ConfigError: the name does not end in .png, or matplotlib is not installed.
        OutputError: no file can be written there.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--plot is {path}; expected the name of an image to write, ending in .png")
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise ConfigError(f"--plot needs matplotlib: {install_command('train')}") from e
    check_writable(path)


def draw_benchmark(benchmark: Benchmark, path: Path) -> None:
    """Write the image, a PNG.

    Raises:
        OutputError: it cannot be written.
    """
    from matplotlib.figure import Figure

    bars = sum(len(metrics.stages) for metrics in benchmark.models)
    figure: Any = Figure(figsize=(11, 2.4 + 0.4 * bars), layout="constrained")
    stages, throughput = figure.subplots(1, 2)
    _draw_stages(stages, benchmark)
    _draw_throughput(throughput, benchmark)
    figure.legend(*stages.get_legend_handles_labels(), loc="outside lower left", ncols=len(STAGE_NAMES))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw_stages(axes: "Axes", benchmark: Benchmark) -> None:
    rows = [(name, at) for name, metrics in _named(benchmark) for at in metrics.stages]
    places, left = range(len(rows)), [0.0] * len(rows)
    for stage in (name for name in rows[0][1].stages if name != END_TO_END):
        widths = [at.stages[stage].median_ms / at.batch for _, at in rows]
        axes.barh(places, widths, left=left, label=STAGE_NAMES[stage])
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(places, [f"{name}\nbatch {at.batch}" for name, at in rows])
    axes.invert_yaxis()
    axes.set(title="median time of an image", xlabel="ms")


def _draw_throughput(axes: "Axes", benchmark: Benchmark) -> None:
    for name, metrics in _named(benchmark):
        for batch in benchmark.settings.batches:
            own = [at for at in metrics.serving if at.batch == batch]
            rates = [at.images_per_second for at in own]
            axes.plot([at.concurrency for at in own], rates, marker="o", label=f"{name}, batch {batch}")
    highest = max(at.images_per_second for metrics in benchmark.models for at in metrics.serving)
    axes.set(title="throughput", xlabel="threads that share one predictor", ylabel="images/s", ylim=(0, 1.1 * highest))
    axes.set_xticks(sorted(set(benchmark.settings.concurrency)))
    axes.legend()


def _named(benchmark: Benchmark) -> list[tuple[str, ModelMetrics]]:
    """Models by file name; by their whole paths where two have the same."""
    names = [Path(metrics.model).name for metrics in benchmark.models]
    told_apart = len(set(names)) == len(names)
    return [(name if told_apart else f.model, f) for name, f in zip(names, benchmark.models, strict=True)]
