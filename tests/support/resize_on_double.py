"""The resizing kernel as the strict driver runs it: its documented arguments, computed with numpy."""

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from condinst_deploy.imaging.resize_tables import FRACTIONAL_BITS
from condinst_deploy.kernels.resize_launch import ResizeNumbers
from tests.support.strict_calls import MisuseError
from tests.support.strict_state import Span

HALF = 1 << (FRACTIONAL_BITS - 1)


def _memory(address: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _table(address: int, resized: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """First pixels, counts, and as many coefficients as the largest count."""
    counts = _memory(address, 8 * resized).view(np.int32)[resized:]
    rows = 2 + int(counts.max())
    return _memory(address, 4 * rows * resized).view(np.int32).reshape(rows, resized)


def _pixels_of(table: np.ndarray[Any, np.dtype[np.int32]]) -> int:
    return int((table[0] + table[1]).max())


def _pass(pixels: np.ndarray[Any, Any], table: np.ndarray[Any, np.dtype[np.int32]]) -> np.ndarray[Any, Any]:
    """Along the first axis, pixel by pixel."""
    lines = []
    for i, (first, count) in enumerate(zip(*table[:2].tolist(), strict=True)):
        weights = table[2 : 2 + count, i].astype(np.int64)
        lines.append(np.tensordot(weights, pixels[first : first + count].astype(np.int64), axes=1))
    sums: np.ndarray[Any, Any] = (np.stack(lines) + HALF) >> FRACTIONAL_BITS
    return sums.clip(0, 255)


def resize_on_double(grid: tuple[int, int, int], values: list[int]) -> tuple[list[Span], Callable[[], None]]:
    """What a launch touches, and what it computes."""
    image, outer_table, inner_table, *whole, target = values
    numbers = ResizeNumbers(*whole)
    if grid != numbers.grid:
        raise MisuseError(f"the grid {grid} does not cover the target")
    padded = 3 * numbers.padded_outer * numbers.padded_inner
    # the tables are read when the kernel runs, so their sizes are not known yet
    spans = [Span(outer_table, 8 * numbers.resized_outer, False), Span(inner_table, 8 * numbers.resized_inner, False)]
    spans += [Span(image, 1, False), Span(target, padded, True)]

    def run() -> None:
        outer, inner = _table(outer_table, numbers.resized_outer), _table(inner_table, numbers.resized_inner)
        sides = _pixels_of(outer), _pixels_of(inner)
        strides = (numbers.image_outer, numbers.image_inner, 1)
        size = sum((side - 1) * stride for side, stride in zip((*sides, 3), strides, strict=True)) + 1
        pixels = np.lib.stride_tricks.as_strided(_memory(image, size), (*sides, 3), strides)
        first = _pass(pixels.swapaxes(0, 1), inner).swapaxes(0, 1)
        made = _pass(first, outer)  # (outer, inner, 3)
        canvas = _memory(target, padded)
        canvas[:] = 0
        steps = (numbers.padded_outer * numbers.padded_inner, numbers.target_outer, numbers.target_inner)
        shape = (3, numbers.resized_outer, numbers.resized_inner)
        np.lib.stride_tricks.as_strided(canvas, shape, steps)[...] = made.transpose(2, 0, 1)

    return spans, run
