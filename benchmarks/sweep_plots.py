"""The plots of docs/performance.md, from the committed metrics of `benchmarks/sweeps.py`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from condinst_deploy.shown_text import counted
from condinst_deploy.support.atomic_write import atomic_path

IMAGES = Path(__file__).parents[1] / "docs" / "images"

Row = dict[str, Any]


def draw_sweeps(metrics: dict[str, Any], folder: Path) -> Iterator[Path]:
    """Draw one image a sweep; their paths."""
    for name, draw in (("instances", _instances), ("originals", _originals), ("network", _network)):
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        draw(figure.subplots(1, 2), metrics)
        path = folder / f"sweep_{name}.png"
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="png", dpi=90, pil_kwargs={"optimize": True})
        yield path


def _instances(axes: Sequence[Axes], metrics: dict[str, Any]) -> None:
    rows = metrics["instances"]
    counts = [row["instances"] for row in rows]
    _lines(axes[0], counts, rows, {"dense_ms": "dense reference, to RLE", "masks_ms": "ours, to RLE"})
    axes[0].set(title="masks, 800x1333", xlabel="instances", ylabel="ms", yscale="log")
    _lines(axes[1], counts, rows, {"masks_ms": "masks to RLE", "mask_head_ms": "dynamic mask head (eager)"})
    axes[1].set(title="what grows with instances", xlabel="instances", ylim=(0, None))


def _originals(axes: Sequence[Axes], metrics: dict[str, Any]) -> None:
    rows = metrics["originals"]
    sizes = [row["megapixels"] for row in rows]
    _lines(axes[0], sizes, rows, {"dense_ms": "dense reference, to RLE", "masks_ms": "ours, to RLE"})
    axes[0].set(title="masks of 100 instances", xlabel="megapixels of the original", ylabel="ms", yscale="log")
    _lines(axes[1], sizes, rows, {"masks_ms": "masks to RLE", "resize_ms": "resize and pad"})
    axes[1].set(title="what grows with the image", xlabel="megapixels of the original", ylim=(0, None))


def _network(axes: Sequence[Axes], metrics: dict[str, Any]) -> None:
    for own, name, title in ((axes[0], "slim", "slim model"), (axes[1], "full", "R-50 at 800x1344")):
        for threads in sorted({row["threads"] for row in metrics[name]}):
            rows = [row for row in metrics[name] if row["threads"] == threads]
            _lines(own, [row["batch"] for row in rows], rows, {"network_ms": counted(threads, "thread")})
        own.set(title=f"network, {title}", xlabel="batch", ylim=(0, None))
    axes[0].set(ylabel="ms an image")


def _lines(axes: Axes, x: Sequence[float], rows: list[Row], names: dict[str, str]) -> None:
    for key, label in names.items():
        axes.plot(x, [row[key] for row in rows], marker="o", label=label)
    axes.legend()
