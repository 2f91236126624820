"""Mask logits to the runs of masks at original size; `condinst_deploy.runtime.postprocess` does the same on a host.

Four launches for all masks of a batch, over crops that hold every pixel that can be set:

1. `probabilities_kernel` writes the doubled probabilities of each crop (aligned bilinear x2 and sigmoid): each is
   computed once, and all columns of pixels beside it read it from the cache.
2. `changes_kernel` without writing goes down each column of pixels and counts where it crosses 0.5.
3. `offsets_kernel` adds the counts of each crop up. Where a run goes on from the end of a column to the beginning of
   the next, the end and the beginning are left out.
4. `changes_kernel` with writing, after the host has made the room, puts the starts and ends of runs in their places.

What crosses to the host is what `Masks` holds. The arithmetic is the host's, operation by operation: float32 up to the
values, float64 for the place of a crossing, without contraction to fused multiply-adds. Where `exp` has the host's
bits, runs are the host's.
"""

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl
from torch import Tensor

from condinst_deploy.kernels import runs_launch
from condinst_deploy.kernels.host_memory import to_device
from condinst_deploy.kernels.runs_launch import SCAN, STRIP, TILE, ColumnTables, Launch, run_starts

PLANE = tl.constexpr(runs_launch.PLANE)
TOP = tl.constexpr(runs_launch.TOP)
LEFT = tl.constexpr(runs_launch.LEFT)
ROWS = tl.constexpr(runs_launch.ROWS)
COLUMNS = tl.constexpr(runs_launch.COLUMNS)
FIRST_PIXEL = tl.constexpr(runs_launch.FIRST_PIXEL)
PIXELS = tl.constexpr(runs_launch.PIXELS)
AXIS = tl.constexpr(runs_launch.AXIS)
HEIGHT = tl.constexpr(runs_launch.HEIGHT)
FIRST_PROBABILITY = tl.constexpr(runs_launch.FIRST_PROBABILITY)
FIRST_TILE = tl.constexpr(runs_launch.FIRST_TILE)
FIRST_COLUMN = tl.constexpr(runs_launch.FIRST_COLUMN)
FIRST_STRIP = tl.constexpr(runs_launch.FIRST_STRIP)
FIELDS = tl.constexpr(runs_launch.FIELDS)

# in the count of a column
TOP_SET = tl.constexpr(2)  # its first run begins at its first pixel
BOTTOM_SET = tl.constexpr(1)  # its last run ends at its last pixel
COUNT = tl.constexpr(4)  # a start or an end of a run


@triton.jit
def crop_of(program, crops, number, FIELD: tl.constexpr):
    """The last crop whose `FIELD`, the number of its first program, is not behind this program."""
    low = program * 0
    high = low + number
    while high - low > 1:
        middle = (low + high) // 2
        reached = tl.load(crops + middle * FIELDS + FIELD) <= program
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle)
    return low


@triton.jit
def logit_at(own, row, column, height, width, inside):
    """Logits in float32; beyond a border, the border's."""
    row = tl.minimum(tl.maximum(row, 0), height - 1)
    column = tl.minimum(tl.maximum(column, 0), width - 1)
    return tl.load(own + row * width + column, inside, 0.0).to(tl.float32)


@triton.jit
def beside(own, row, rows, columns, inside):
    """Probabilities of a row, left and right of columns of pixels; 0 behind the last row."""
    real = inside & (row < rows)
    return tl.load(own + row * columns, real, 0.0), tl.load(own + row * columns + 1, real, 0.0)


@triton.jit
def joined(count, after):
    """1 where a run goes on from a column to the next, given the counts of both."""
    return (((count & BOTTOM_SET) != 0) & ((after & TOP_SET) != 0)).to(tl.int32)


@triton.jit(do_not_specialize=["number", "height", "width"])
def probabilities_kernel(logits, crops, number, height, width, probabilities, TILE: tl.constexpr):
    """Doubled probabilities of a tile of one crop; program (tile)."""
    tile = tl.program_id(0)
    crop = crops + crop_of(tile, crops, number, FIRST_TILE) * FIELDS
    columns = tl.load(crop + COLUMNS).to(tl.int32)
    size = tl.load(crop + ROWS).to(tl.int32) * columns
    place = (tile - tl.load(crop + FIRST_TILE).to(tl.int32)) * TILE + tl.arange(0, TILE)
    inside = place < size
    row = place // columns
    column = place - row * columns
    own = logits + tl.load(crop + PLANE) * height * width
    y = tl.load(crop + TOP).to(tl.int32) + row // 2
    x = tl.load(crop + LEFT).to(tl.int32) + column // 2
    between_rows = row % 2 == 1
    between_columns = column % 2 == 1
    near = logit_at(own, y, x, height, width, inside)
    lower = logit_at(own, y + 1, x, height, width, inside & between_rows)
    near = tl.where(between_rows, (lower + near) * 0.5, near)
    far = logit_at(own, y, x + 1, height, width, inside & between_columns)
    lower = logit_at(own, y + 1, x + 1, height, width, inside & between_rows & between_columns)
    far = tl.where(between_rows, (lower + far) * 0.5, far)
    logit = tl.where(between_columns, (far + near) * 0.5, near)
    probability = tl.div_rn(tl.full((TILE,), 1.0, tl.float32), tl.exp(-logit) + 1.0)
    tl.store(probabilities + tl.load(crop + FIRST_PROBABILITY) + place, probability, inside)


@triton.jit(do_not_specialize=["number"])
def changes_kernel(
    probabilities, crops, axes, first, share, number, counts, offsets, starts, runs,
    WRITE: tl.constexpr, STRIP: tl.constexpr,
):  # fmt: skip
    """Starts and ends of the runs in a strip of columns of one crop: how many, or where; program (strip)."""
    strip = tl.program_id(0)
    which = crop_of(strip, crops, number, FIRST_STRIP)
    crop = crops + which * FIELDS
    rows = tl.load(crop + ROWS).to(tl.int32)
    columns = tl.load(crop + COLUMNS).to(tl.int32)
    top = tl.load(crop + TOP).to(tl.int32)
    height = tl.load(crop + HEIGHT).to(tl.int32)
    step = tl.load(axes + which * 3)
    start = tl.load(axes + which * 3 + 1)
    last = tl.load(axes + which * 3 + 2)
    width = tl.load(crop + PIXELS).to(tl.int32)
    place = (strip - tl.load(crop + FIRST_STRIP).to(tl.int32)) * STRIP + tl.arange(0, STRIP)
    inside = place < width
    pixel = tl.load(crop + FIRST_PIXEL).to(tl.int32) + place
    entry = tl.load(crop + AXIS) + pixel
    # logit k is probability 2 k + 1
    near = tl.load(first + entry, inside, 0) - (2 * tl.load(crop + LEFT).to(tl.int32) + 1)
    weight = tl.load(share + entry, inside, 0.0)
    own = probabilities + tl.load(crop + FIRST_PROBABILITY) + near
    counter = tl.load(crop + FIRST_COLUMN) + place

    found = tl.zeros((STRIP,), tl.int32)
    begins_at_top = tl.zeros((STRIP,), tl.int32)
    if WRITE:
        count = tl.load(counts + counter, inside, 0)
        goes_on = joined(count, tl.load(counts + counter + 1, place + 1 < width, 0))
        # the first one is not written where a run comes from the column before
        found -= joined(tl.load(counts + counter - 1, inside & (place > 0), 0), count)
        target = runs + tl.load(starts + which) + tl.load(offsets + counter, inside, 0)
        number_of_top = pixel.to(tl.int64) * height
    before = tl.zeros((STRIP,), tl.float32)
    waiting = tl.full((STRIP,), -1, tl.int32)  # a change that the next one may undo
    left, right = beside(own, 0, rows, columns, inside)
    next_left, next_right = beside(own, 1, rows, columns, inside)
    for row in range(0, rows + 1):  # there is a 0 before the first row and one behind the last
        value = (right - left) * weight + left
        left, right = next_left, next_right
        # read two rows ahead: few warps share a multiprocessor, so nothing else hides the time that a read takes
        next_left, next_right = beside(own, row + 2, rows, columns, inside)
        above = value > 0.5
        crosses = above != (before > 0.5)
        if tl.max(crosses.to(tl.int32), axis=0) > 0:
            low = before.to(tl.float64)
            high = tl.where(crosses, value.to(tl.float64), low + 1.0)
            along = (0.5 - low) / (high - low) + row + 2 * top
            at = tl.where(along > last, height.to(tl.float64), along * step + start)
            y = tl.where(above, tl.floor(at) + 1.0, tl.ceil(at))
            y = tl.minimum(tl.maximum(y, 0.0), height.to(tl.float64)).to(tl.int32)
            undone = crosses & (y == waiting)
            sure = crosses & (waiting >= 0) & (y != waiting)
            if WRITE:
                tl.store(target + found, number_of_top + waiting, sure & (found >= 0))
            else:
                begins_at_top = tl.where(sure & (found == 0) & (waiting == 0), 1, begins_at_top)
            found += sure.to(tl.int32)
            waiting = tl.where(undone, -1, tl.where(crosses, y, waiting))
        before = value
    sure = inside & (waiting >= 0)
    if WRITE:
        tl.store(target + found, number_of_top + waiting, sure & (found >= 0) & (goes_on == 0))
    else:
        ends_at_bottom = sure & (waiting == height)
        begins_at_top = tl.where(sure & (found == 0) & (waiting == 0), 1, begins_at_top)
        found += sure.to(tl.int32)
        packed = COUNT * found + TOP_SET * begins_at_top + BOTTOM_SET * ends_at_bottom.to(tl.int32)
        tl.store(counts + counter, packed, inside)


@triton.jit
def offsets_kernel(crops, counts, offsets, totals, SCAN: tl.constexpr):
    """Where the starts and ends of each column of one crop are written, and how many there are; program (crop)."""
    which = tl.program_id(0)
    crop = crops + which * FIELDS
    width = tl.load(crop + PIXELS).to(tl.int32)
    begin = tl.load(crop + FIRST_COLUMN)
    total = width * 0
    for block in range(0, width, SCAN):
        place = block + tl.arange(0, SCAN)
        inside = place < width
        counter = begin + place
        count = tl.load(counts + counter, inside, 0)
        before = tl.load(counts + counter - 1, inside & (place > 0), 0)
        after = tl.load(counts + counter + 1, place + 1 < width, 0)
        own = count // COUNT - joined(before, count) - joined(count, after)
        tl.store(offsets + counter, total + tl.cumsum(own, axis=0) - own, inside)
        total += tl.sum(own, axis=0)
    tl.store(totals + which, total)


class RunFinder:
    """The launches for some crops, with their tables and memory on the logits' device."""

    def __init__(self, logits: Tensor, launch: Launch, columns: ColumnTables) -> None:
        """Start to copy the tables.

        Args:
            logits: `(B, K, h, w)` float32, float16 or bfloat16, finite.
            launch: some crops, of which one has columns.
            columns: for all columns of pixels of the images.
        """
        device, self._launch, self._logits = logits.device, launch, logits.contiguous()
        self._crops, self._axes, *self._columns = (
            to_device(each, device) for each in (launch.table, launch.axes, *columns)
        )
        self._probabilities = torch.empty(launch.probabilities, dtype=torch.float32, device=device)
        self._counts, self._offsets, self._totals = (
            torch.empty(size, dtype=torch.int32, device=device)
            for size in (launch.columns, launch.columns, launch.number)
        )

    def count(self) -> Tensor:
        """Starts and ends of the runs of each crop `(n,)` int32, in three launches."""
        number, sides = self._launch.number, self._logits.shape[2:]
        with torch.cuda.device_of(self._logits):  # Triton launches on the current device
            probabilities_kernel[(self._launch.tiles,)](
                self._logits, self._crops, number, *sides, self._probabilities,
                TILE=TILE, num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
            self._changes(self._totals, self._totals, write=False)
            offsets_kernel[(number,)](self._crops, self._counts, self._offsets, self._totals, SCAN=SCAN, num_warps=4)
        return self._totals

    def write(self, starts: Tensor, runs: Tensor) -> None:
        """Write the runs, after `count`, in one launch.

        Args:
            starts: `(n,)` int64 where those of each crop begin.
            runs: `(N,)` int64, as `Masks` holds them.
        """
        with torch.cuda.device_of(self._logits):
            self._changes(starts, runs, write=True)

    def _changes(self, starts: Tensor, runs: Tensor, *, write: bool) -> None:
        changes_kernel[(self._launch.strips,)](
            self._probabilities, self._crops, self._axes, *self._columns, self._launch.number, self._counts,
            self._offsets, starts, runs, WRITE=write, STRIP=STRIP, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip


def mask_runs(logits: Tensor, launch: Launch, columns: ColumnTables) -> tuple[Tensor, npt.NDArray[np.int32]]:
    """Runs of the masks of crops; the caller waits once, for their number.

    Args:
        logits: `(B, K, h, w)` float32, float16 or bfloat16, finite.
        launch: at least one crop.
        columns: for all columns of pixels of the images.

    Returns:
        runs: `(N,)` int64 on the logits' device, starts and ends of the runs in turn as `Masks` holds them, one crop
            behind the other.
        totals: `(n,)` starts and ends of each crop, on the host.
    """
    device = logits.device
    if launch.strips == 0:
        return torch.zeros(0, dtype=torch.int64, device=device), np.zeros(launch.number, dtype=np.int32)
    finder = RunFinder(logits, launch, columns)
    totals: npt.NDArray[np.int32] = finder.count().cpu().numpy()
    starts = run_starts(totals)
    runs = torch.empty(int(starts[-1]), dtype=torch.int64, device=device)
    if len(runs) > 0:
        finder.write(to_device(starts, device), runs)
    return runs, totals
