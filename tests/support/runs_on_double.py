"""The kernels that find runs of masks as the strict driver runs them: their documented arguments, computed with numpy."""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from condinst_deploy.kernels import runs_launch
from condinst_deploy.kernels.runs_launch import FIELDS, STRIP, TILE
from tests.support.strict_driver import Launch, MisuseError, Span

Values = np.ndarray[Any, Any]


def array(address: int, shape: tuple[int, ...], dtype: str) -> Values:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size == 0:
        return np.zeros(shape, dtype)
    content = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return content.view(dtype).reshape(shape)


def crops_at(address: int, number: int) -> list[list[int]]:
    return array(address, (number, FIELDS), "int64").tolist()  # type: ignore[no-any-return]


def covered(programs: int, sizes: list[int], block: int) -> None:
    if programs != sum(-(-size // block) for size in sizes):
        raise MisuseError(f"{programs} programs do not cover the crops")


def extents_launch(dtype: str) -> Launch:
    def launch(grid: tuple[int, int, int], values: list[int]) -> tuple[list[Span], Callable[[], None]]:
        logits, height, width, extents = values
        size = grid[0] * height * width * np.dtype(dtype).itemsize

        def run() -> None:
            planes = array(logits, (grid[0], height, width), dtype)
            for plane, out in zip(planes, array(extents, (grid[0], 5), "int32"), strict=True):
                rows, columns = np.nonzero(plane > 0)
                none = 1 << 30
                out[:4] = (rows.min(), rows.max(), columns.min(), columns.max()) if len(rows) else (none, -1, none, -1)
                out[4] = not np.isfinite(plane).all()

        return [Span(logits, size, False), Span(extents, grid[0] * 20, True)], run

    return launch


def probabilities_launch(dtype: str) -> Launch:
    def launch(grid: tuple[int, int, int], values: list[int]) -> tuple[list[Span], Callable[[], None]]:
        logits, crops, number, height, width, probabilities = values
        spans = [Span(crops, number * FIELDS * 8, False), Span(logits, 1, False), Span(probabilities, 1, True)]

        def run() -> None:
            table = crops_at(crops, number)
            sizes = [crop[runs_launch.ROWS] * crop[runs_launch.COLUMNS] for crop in table]
            covered(grid[0], sizes, TILE)
            out = array(probabilities, (sum(sizes),), "float32")
            planes = 1 + max(crop[runs_launch.PLANE] for crop in table)
            stack = array(logits, (planes, height, width), dtype)
            for crop, size in zip(table, sizes, strict=True):
                rows, columns = (
                    np.arange(crop[first], crop[first] + (crop[sides] + 1) // 2).clip(0, side - 1)
                    for first, sides, side in (
                        (runs_launch.TOP, runs_launch.ROWS, height),
                        (runs_launch.LEFT, runs_launch.COLUMNS, width),
                    )
                )
                if size:
                    window = stack[crop[runs_launch.PLANE]][np.ix_(rows, columns)].astype(np.float32)
                    doubled = doubled_rows(doubled_rows(window).T).T
                    begin = crop[runs_launch.FIRST_PROBABILITY]
                    with np.errstate(over="ignore"):
                        out[begin : begin + size] = (np.float32(1) / (np.exp(-doubled) + np.float32(1))).ravel()

        return spans, run

    return launch


def doubled_rows(values: Values) -> Values:
    doubled = np.empty((2 * len(values) - 1, values.shape[1]), np.float32)
    doubled[::2] = values
    doubled[1::2] = (values[1:] + values[:-1]) * np.float32(0.5)
    return doubled


def columns_of(values: list[int]) -> Iterator[tuple[int, int, list[int]]]:
    """Crop, place of the column in the counts, and `x * H + y` of its runs' starts and ends, for every column."""
    probabilities, crops, axes, first, share, number = values[:6]
    table = crops_at(crops, number)
    sizes = array(axes, (number, 3), "float64").tolist()
    for which, (crop, (step, start, last)) in enumerate(zip(table, sizes, strict=True)):
        rows, columns = crop[runs_launch.ROWS], crop[runs_launch.COLUMNS]
        own = array(probabilities + 4 * crop[runs_launch.FIRST_PROBABILITY], (rows, columns), "float32")
        for place in range(crop[runs_launch.PIXELS]):
            pixel = crop[runs_launch.FIRST_PIXEL] + place
            entry = crop[runs_launch.AXIS] + pixel
            near = int(array(first + 4 * entry, (1,), "int32")[0]) - (2 * crop[runs_launch.LEFT] + 1)
            weight = array(share + 4 * entry, (1,), "float32")[0]
            values_down = (own[:, near + 1] - own[:, near]) * weight + own[:, near]
            height = crop[runs_launch.HEIGHT]
            ends = ends_in_column(values_down, (step, start, last), 2 * crop[runs_launch.TOP], height)
            yield which, crop[runs_launch.FIRST_COLUMN] + place, [pixel * height + y for y in ends]


def ends_in_column(values: Values, axis: tuple[float, float, float], top: int, height: int) -> list[int]:
    step, start, last = axis
    padded = np.concatenate(([0], values, [0])).astype(np.float32)
    found: list[int] = []
    for low in np.flatnonzero((padded[1:] > 0.5) != (padded[:-1] > 0.5)).tolist():
        before, after = float(padded[low]), float(padded[low + 1])
        along = (0.5 - before) / (after - before) + low + top
        at = height if along > last else along * step + start
        y = int(min(max(np.floor(at) + 1 if after > 0.5 else np.ceil(at), 0), height))
        if found and found[-1] == y:
            found.pop()
        else:
            found.append(y)
    return found


def changes_counted(grid: tuple[int, int, int], values: list[int]) -> tuple[list[Span], Callable[[], None]]:
    probabilities, crops, axes, first, share, number, counts = values[:7]
    spans = [Span(each, 1, False) for each in (probabilities, axes, first, share)]
    spans += [Span(crops, number * FIELDS * 8, False), Span(counts, 1, True)]

    def run() -> None:
        table = crops_at(crops, number)
        covered(grid[0], [crop[runs_launch.PIXELS] for crop in table], STRIP)
        for which, place, ends in columns_of(values):
            crop = table[which]
            begin = (crop[runs_launch.FIRST_PIXEL] + place - crop[runs_launch.FIRST_COLUMN]) * crop[runs_launch.HEIGHT]
            top = begin in ends[:1]
            bottom = begin + crop[runs_launch.HEIGHT] in ends[-1:]
            array(counts + 4 * place, (1,), "int32")[0] = 4 * len(ends) + 2 * top + bottom

    return spans, run


def offsets(grid: tuple[int, int, int], values: list[int]) -> tuple[list[Span], Callable[[], None]]:
    crops, counts, places, totals = values
    spans = [Span(crops, grid[0] * FIELDS * 8, False), Span(counts, 1, False)]
    spans += [Span(places, 1, True), Span(totals, 4 * grid[0], True)]

    def run() -> None:
        for which, crop in enumerate(crops_at(crops, grid[0])):
            begin, width = crop[runs_launch.FIRST_COLUMN], crop[runs_launch.PIXELS]
            own = array(counts + 4 * begin, (width,), "int32")
            joined = (own[:-1] & 1) & (own[1:] >> 1 & 1)
            number = own // 4
            number[1:] -= joined
            number[:-1] -= joined
            array(places + 4 * begin, (width,), "int32")[:] = np.cumsum(number) - number
            array(totals, (grid[0],), "int32")[which] = number.sum()

    return spans, run


def changes_written(grid: tuple[int, int, int], values: list[int]) -> tuple[list[Span], Callable[[], None]]:
    probabilities, crops, axes, first, share, number, counts, places, starts, runs = values
    spans = [Span(each, 1, False) for each in (probabilities, axes, first, share, counts, places)]
    spans += [Span(crops, number * FIELDS * 8, False), Span(starts, 8 * number, False), Span(runs, 1, True)]

    def run() -> None:
        table = crops_at(crops, number)
        for which, place, ends in columns_of(values):
            crop = table[which]
            own = array(counts + 4 * crop[runs_launch.FIRST_COLUMN], (crop[runs_launch.PIXELS],), "int32")
            i = place - crop[runs_launch.FIRST_COLUMN]
            if i > 0 and own[i] & 2 and own[i - 1] & 1:
                ends = ends[1:]
            if i + 1 < len(own) and own[i] & 1 and own[i + 1] & 2:
                ends = ends[:-1]
            begin = array(starts + 8 * which, (1,), "int64")[0] + array(places + 4 * place, (1,), "int32")[0]
            array(runs + 8 * int(begin), (len(ends),), "int64")[:] = ends

    return spans, run


RUNS_ON_DOUBLE: dict[str, Launch] = {
    "changes_counted": changes_counted,
    "offsets": offsets,
    "changes_written": changes_written,
    **{f"mask_extents_{dtype}": extents_launch(dtype) for dtype in ("float32", "float16")},
    **{f"probabilities_{dtype}": probabilities_launch(dtype) for dtype in ("float32", "float16")},
}
"""Name in the package -> its double."""
