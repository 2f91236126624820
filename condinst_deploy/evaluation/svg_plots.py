"""Plots of the report as small inline SVG: text and lines that follow the page's fonts and its light or dark colours.

Written by hand: matplotlib's SVG carries its own fonts and colours, a hundred times the size, and belongs to the extra
that trains.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

WIDTH, HEIGHT = 360, 250
LEFT, RIGHT, TOP, BOTTOM = 34, 10, 10, 34
"""Margins of a plot with axes."""

ROW, LABEL, COUNT = 22, 92, 64
"""Height of a bar's row, and widths of what stands left and right of the bars."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Precision at recall 0, 0.01, ..., 1."""

    name: str
    precision: npt.NDArray[np.float64]  # (101,)
    side: int  # colour
    dashed: bool


def precision_recall(title: str, curves: Sequence[Curve]) -> str:
    """Precision over recall; the first side is drawn broad below the others, so that equal curves are both seen."""
    grid = "".join(_grid_line(value) for value in (0, 0.25, 0.5, 0.75, 1))
    lines = "".join(
        f'<polyline class="line s{curve.side}{" dashed" if curve.dashed else ""}{" broad" if curve.side == 0 else ""}"'
        f' points="{_points(curve.precision)}"><title>{escape(curve.name)}</title></polyline>'
        for curve in curves
    )
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    axis = f'<text class="tick" x="{middle}" y="{HEIGHT - 2}" text-anchor="middle">recall</text>'
    return _svg(title, WIDTH, HEIGHT, grid + axis + lines)


def bars(title: str, rows: Sequence[tuple[str, int]], side: int) -> str:
    """Counts as horizontal bars on a logarithmic scale: one of a hundred thousand is still seen."""
    most = math.log10(1 + max((count for _, count in rows), default=0)) or 1.0
    room = WIDTH - LABEL - COUNT
    parts = []
    for i, (label, count) in enumerate(rows):
        length = room * math.log10(1 + count) / most
        middle = i * ROW + ROW / 2 + 4
        parts.append(
            f'<text class="tick" x="{LABEL - 6}" y="{middle}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="bar s{side}" x="{LABEL}" y="{i * ROW + 3}" width="{length:.1f}" height="{ROW - 6}" rx="2"/>'
            f'<text class="tick" x="{LABEL + length + 5:.1f}" y="{middle}">{count:,}</text>'
        )
    return _svg(title, WIDTH, len(rows) * ROW, "".join(parts))


def error_rows(errors: npt.NDArray[np.float64], bounds: Sequence[float]) -> list[tuple[str, int]]:
    """Return the number of errors that are 0, up to the first bound, up to the next, ..., above the last."""
    classes = np.searchsorted((0.0, *bounds), errors, side="left")
    counts = np.bincount(classes, minlength=len(bounds) + 2).tolist()
    labels = ["0", *(f"up to {bound:g}" for bound in bounds), f"above {bounds[-1]:g}"]
    return list(zip(labels, counts, strict=True))


def iou_rows(counts: Sequence[int], bins: Sequence[float]) -> list[tuple[str, int]]:
    """Classes of mask IoU, best first."""
    labels = [f"below {bins[0]:g}", *(f"from {low:g}" for low in bins[:-1]), "1 (identical)"]
    return list(zip(reversed(labels), reversed(counts), strict=True))


def _svg(title: str, width: float, height: float, content: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"'
        f' xmlns="http://www.w3.org/2000/svg">{content}</svg>'
    )


def _grid_line(value: float) -> str:
    x, y = _x(value), _y(value)
    return (
        f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text class="tick" x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>'
        f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{value:g}</text>'
    )


def _points(precision: npt.NDArray[np.float64]) -> str:
    recalls = np.linspace(0, 1, len(precision))
    return " ".join(f"{_x(r):.1f},{_y(p):.1f}" for r, p in zip(recalls.tolist(), precision.tolist(), strict=True))


def _x(recall: float) -> float:
    return LEFT + recall * (WIDTH - LEFT - RIGHT)


def _y(precision: float) -> float:
    return HEIGHT - BOTTOM - precision * (HEIGHT - TOP - BOTTOM)
