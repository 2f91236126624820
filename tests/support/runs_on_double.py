"""The kernels that find runs of masks as the strict driver runs them: their documented arguments, in numpy."""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from condinst_deploy.kernels import runs_launch
from condinst_deploy.kernels.runs_launch import FIELDS, STRIP, TILE
from tests.support.strict_calls import MisuseError
from tests.support.strict_state import Launch, Span

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


class Ends(NamedTuple):
    """Starts and ends of the runs in the columns of one crop, column by column."""

    crop: list[int]
    column: Values  # (m,) from 0
    y: Values  # (m,) 0 to the height of the image


def ends_of_crops(values: list[int]) -> Iterator[Ends]:
    probabilities, crops, axes, first, share, number = values[:6]
    table = crops_at(crops, number)
    for crop, axis in zip(table, array(axes, (number, 3), "float64").tolist(), strict=True):
        entry, width = crop[runs_launch.AXIS] + crop[runs_launch.FIRST_PIXEL], crop[runs_launch.PIXELS]
        sides = (crop[runs_launch.ROWS], crop[runs_launch.COLUMNS])
        own = array(probabilities + 4 * crop[runs_launch.FIRST_PROBABILITY], sides, "float32")
        near = array(first + 4 * entry, (width,), "int32") - (2 * crop[runs_launch.LEFT] + 1)
        if not width:
            yield Ends(crop, near, near)
            continue
        padded = np.zeros((width, sides[0] + 2), np.float32)
        weights = array(share + 4 * entry, (width,), "float32")
        padded[:, 1:-1] = ((own[:, near + 1] - own[:, near]) * weights + own[:, near]).T
        column, y = crossings(padded, axis, 2 * crop[runs_launch.TOP], crop[runs_launch.HEIGHT])
        keys, times = np.unique(column * (crop[runs_launch.HEIGHT] + 1) + y, return_counts=True)
        yield Ends(crop, *np.divmod(keys[times % 2 == 1], crop[runs_launch.HEIGHT] + 1))


def crossings(padded: Values, axis: list[float], top: int, height: int) -> tuple[Values, Values]:
    """Column and pixel of each crossing of 0.5, in columns with a 0 at both ends."""
    step, start, last = axis
    column, low = np.nonzero((padded[:, 1:] > 0.5) != (padded[:, :-1] > 0.5))
    before, after = padded[column, low].astype(np.float64), padded[column, low + 1].astype(np.float64)
    along = (0.5 - before) / (after - before) + low + top
    at = np.where(along > last, height, along * step + start)
    return column, np.where(after > 0.5, np.floor(at) + 1, np.ceil(at)).clip(0, height).astype(np.int64)


def changes_counted(grid: tuple[int, int, int], values: list[int]) -> tuple[list[Span], Callable[[], None]]:
    probabilities, crops, axes, first, share, number, counts = values[:7]
    spans = [Span(each, 1, False) for each in (probabilities, axes, first, share)]
    spans += [Span(crops, number * FIELDS * 8, False), Span(counts, 1, True)]

    def run() -> None:
        covered(grid[0], [crop[runs_launch.PIXELS] for crop in crops_at(crops, number)], STRIP)
        for crop, column, y in ends_of_crops(values):
            width = crop[runs_launch.PIXELS]
            out = array(counts + 4 * crop[runs_launch.FIRST_COLUMN], (width,), "int32")
            out[:] = 4 * np.bincount(column, minlength=width)
            out[column[y == 0]] += 2
            out[column[y == crop[runs_launch.HEIGHT]]] += 1

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
        begins = array(starts, (number,), "int64")
        for begin, (crop, column, y) in zip(begins.tolist(), ends_of_crops(values), strict=True):
            pixel, height = crop[runs_launch.FIRST_PIXEL] + column, crop[runs_launch.HEIGHT]
            found = pixel * height + y
            alone = ~np.isin(found, found[1:][found[1:] == found[:-1]])  # a run goes on in the next column
            column, found = column[alone], found[alone]
            number_in_column = np.arange(len(column)) - np.searchsorted(column, column)
            width = crop[runs_launch.PIXELS]
            at = array(places + 4 * crop[runs_launch.FIRST_COLUMN], (width,), "int32")[column] + number_in_column
            if len(at):
                array(runs + 8 * begin, (int(at.max()) + 1,), "int64")[at] = found

    return spans, run


RUNS_ON_DOUBLE: dict[str, Launch] = {
    "changes_counted": changes_counted,
    "offsets": offsets,
    "changes_written": changes_written,
    **{f"mask_extents_{dtype}": extents_launch(dtype) for dtype in ("float32", "float16")},
    **{f"probabilities_{dtype}": probabilities_launch(dtype) for dtype in ("float32", "float16")},
}
"""Name in the package -> its double."""
