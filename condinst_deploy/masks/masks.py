"""Compact instance masks: their runs; RLE, polygons, crops, areas and dense masks on demand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from condinst_deploy.errors import ConfigError
from condinst_deploy.masks.contours import outlines
from condinst_deploy.masks.rle import counts_from_runs, run_lengths_from_counts
from condinst_deploy.masks.simplification import simplified
from condinst_deploy.support.validation import Limits, checked_number

BoolArray = npt.NDArray[np.bool_]
Runs = npt.NDArray[np.int64]
Selector = int | slice | Sequence[int] | npt.NDArray[Any]

TOGETHER = 1 << 15
"""Starts and ends of runs that are encoded at once: few enough to stay in the processor's cache."""


class RLE(TypedDict):
    """COCO's compressed run-length encoding, as pycocotools gives and takes it."""

    size: list[int]  # height, width
    counts: bytes


class TextRLE(TypedDict):
    """RLE in JSON files."""

    size: list[int]
    counts: str  # ASCII


class Window(NamedTuple):
    """The smallest rectangle that holds a mask's pixels; all 0 if the mask is empty."""

    y: int
    x: int
    height: int
    width: int


@dataclass(frozen=True, eq=False, repr=False)
class Masks:
    """Binary masks of the instances of one image.

    Attributes:
        size: `(H, W)` of the image.
        runs: n int64 arrays `(2 m_i,)`: where the mask's runs start and end in turn, rising, as numbers
            `x * H + y` of pixels counted column by column; a run may go on from one column to the next.
    """

    size: tuple[int, int]
    runs: tuple[Runs, ...]

    def __post_init__(self) -> None:
        """Check that runs are pairs of rising numbers of the image's pixels.

        Raises:
            ConfigError: they are not.
        """
        for runs in self.runs:
            if runs.dtype != np.int64 or runs.ndim != 1 or len(runs) % 2:
                raise ConfigError(f"a mask's runs are {runs.dtype} {runs.shape}; expected int64 (2m,)")
        if not _rising(self.runs, self.size[0] * self.size[1]):
            raise ConfigError(f"a mask's runs do not rise from 0 to the {self.size[0]} * {self.size[1]} pixels")

    @classmethod
    def from_crops(cls, size: tuple[int, int], offsets: npt.NDArray[np.int64], crops: Sequence[BoolArray]) -> "Masks":
        """Take masks that are empty outside a crop.

        Args:
            size: `(H, W)` of the image.
            offsets: `(n, 2)` `(y, x)` of each crop's first pixel in the image.
            crops: n bool arrays `(h_i, w_i)`; their borders may be empty.

        Raises:
            ConfigError: shapes or types are wrong, or a crop leaves the image.
        """
        if offsets.shape != (len(crops), 2):
            raise ConfigError(f"mask offsets have shape {offsets.shape}; expected ({len(crops)}, 2)")
        places = zip(offsets.tolist(), crops, strict=True)
        return cls(size, tuple(_runs_of_crop(crop, y, x, size) for (y, x), crop in places))

    @classmethod
    def from_dense(cls, dense: npt.NDArray[Any]) -> "Masks":
        """Take dense masks `(n, H, W)`; what is not zero belongs to the instance."""
        if dense.ndim != 3:
            raise ConfigError(f"dense masks have shape {dense.shape}; expected (n, H, W)")
        size = (dense.shape[1], dense.shape[2])
        return cls(size, tuple(_runs_of_crop(mask != 0, 0, 0, size) for mask in dense))

    @classmethod
    def from_rle(cls, rles: Sequence[RLE | TextRLE], size: tuple[int, int]) -> "Masks":
        """Decode COCO RLEs of an image of `size`; their `counts` may be bytes, or text as in JSON files.

        Raises:
            ConfigError: one is damaged, of another size, or not compressed.
        """
        return cls(size, tuple(_runs_of_rle(rle, size) for rle in rles))

    def __repr__(self) -> str:
        return f"Masks({len(self)} in {self.size[1]}x{self.size[0]})"

    def __len__(self) -> int:
        return len(self.runs)

    def __getitem__(self, which: Selector) -> "Masks":
        """The masks of an index, a slice, a list of indices or a bool array `(n,)`; always a `Masks`."""
        picked = np.atleast_1d(np.arange(len(self))[which])
        return Masks(self.size, tuple(self.runs[i] for i in picked))

    def __iter__(self) -> Iterator["Masks"]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Dense masks `(n, H, W)`, bool unless another type is asked for."""
        if copy is False:
            raise ValueError("dense masks are made on demand: a copy cannot be avoided")
        dense = np.zeros((len(self), *self.size), dtype=dtype or np.bool_)
        for i, (mask, (y, x, height, width)) in enumerate(zip(dense, self.windows, strict=True)):
            mask[y : y + height, x : x + width] = self.crop(i)
        return dense

    @property
    def areas(self) -> npt.NDArray[np.int64]:
        """`(n,)` number of pixels of each mask."""
        return np.array([(runs[1::2] - runs[::2]).sum() for runs in self.runs], dtype=np.int64)

    @property
    def windows(self) -> list[Window]:
        """The smallest rectangle around the pixels of each mask."""
        return [_window(runs, self.size[0]) for runs in self.runs]

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """`(n, 2)` `(y, x)` of the first pixel of each mask's crop."""
        return np.array([(window.y, window.x) for window in self.windows], dtype=np.int64).reshape(-1, 2)

    @property
    def crops(self) -> tuple[BoolArray, ...]:
        """Return the pixels of each mask's window, `(h_i, w_i)`; `(0, 0)` where the mask is empty."""
        return tuple(self.crop(i) for i in range(len(self)))

    def crop(self, i: int) -> BoolArray:
        """Return the pixels of the window of mask `i`, `(h_i, w_i)`, columns contiguous."""
        return crop_of_runs(self.runs[i], _window(self.runs[i], self.size[0]), self.size[0])

    def rle(self) -> list[RLE]:
        """COCO RLE of every mask, the same bytes as pycocotools' `encode` of the dense mask."""
        pixels = self.size[0] * self.size[1]
        counts = (text for group in _groups(self.runs) for text in counts_from_runs(group, pixels))
        return [{"size": list(self.size), "counts": text} for text in counts]

    def polygons(self, tolerance: float = 0.0) -> list[list[npt.NDArray[np.float32]]]:
        """Closed outlines of every mask, in pixels, where the centre of pixel `(0, 0)` is at `(0.5, 0.5)`.

        Args:
            tolerance: pixels that points may lie beside the new outline when they are left out; 0: none is left out.

        Returns:
            For each mask a list of `(m, 2)` float32 `(x, y)` polygons through the middles between pixel
            centres, corners cut: exactly the mask's pixels have their centres inside. Parts and holes are
            separate polygons (even-odd rule). A mask of no pixels has none. Time and memory grow with the
            outlines' length.

        Raises:
            ConfigError: the tolerance is no number, negative or not finite.
        """
        tolerance = checked_number("tolerance", tolerance, Limits(0))
        return [[simplified(ring, tolerance) for ring in outlines(runs, self.size[0])] for runs in self.runs]


def _rising(masks: Sequence[Runs], pixels: int) -> bool:
    """True if the numbers of each mask rise from 0 or more to `pixels` at most."""
    used = [runs for runs in masks if len(runs)]
    return all(_rising_together(group, pixels) for group in _groups(used))


def _rising_together(masks: Sequence[Runs], pixels: int) -> bool:
    flat = np.concatenate(masks)
    lasts = np.cumsum([len(runs) for runs in masks])
    rises = flat[1:] > flat[:-1]
    rises[lasts[:-1] - 1] = True  # from one mask to the next
    firsts = np.append(0, lasts[:-1])
    return bool(rises.all() and flat[firsts].min() >= 0 and flat[lasts - 1].max() <= pixels)


def _groups(masks: Sequence[Runs]) -> Iterator[Sequence[Runs]]:
    """Masks in order, some together."""
    start, count = 0, 0
    for i, runs in enumerate(masks):
        count += len(runs)
        if count >= TOGETHER:
            yield masks[start : i + 1]
            start, count = i + 1, 0
    if start < len(masks):
        yield masks[start:]


def trimmed_crop(mask: BoolArray) -> tuple[tuple[int, int], BoolArray]:
    """Cut `mask` to the bounding rectangle of its pixels: `((y, x), crop)`; `(0, 0)` and `(0, 0)` if empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return (0, 0), np.zeros((0, 0), dtype=np.bool_)
    top, left = int(rows[0]), int(columns[0])
    # a copy: a view would keep the whole mask alive
    return (top, left), mask[top : rows[-1] + 1, left : columns[-1] + 1].copy()


def runs_from_changes(changes: npt.NDArray[np.int64]) -> Runs:
    """The runs of a mask that changes at these pixels, in rising order.

    Two changes at the same pixel undo each other: a run of no pixels, or one that ends at a column's bottom and
    goes on where the next column begins.
    """
    again = changes[1:] == changes[:-1]
    if not again.any():
        return changes
    firsts = np.flatnonzero(np.append(True, ~again))  # of those at the same pixel
    times = np.diff(firsts, append=len(changes))
    runs: Runs = changes[firsts[times % 2 == 1]]
    return runs


def _runs_of_crop(crop: BoolArray, top: int, left: int, size: tuple[int, int]) -> Runs:
    """Runs of a mask that is `crop` at `(top, left)` of an image of `size`, and empty elsewhere."""
    if crop.dtype != np.bool_ or crop.ndim != 2:
        raise ConfigError(f"a mask crop is {crop.dtype} {crop.shape}; expected bool (h, w)")
    if top < 0 or left < 0 or top + crop.shape[0] > size[0] or left + crop.shape[1] > size[1]:
        raise ConfigError(f"a mask crop {crop.shape} at {(top, left)} leaves the image {size}")
    if crop.size == 0:
        return np.zeros(0, dtype=np.int64)
    changed = np.empty((crop.shape[0] + 1, crop.shape[1]), dtype=np.bool_)  # from the pixel above
    changed[0], changed[-1] = crop[0], crop[-1]
    np.not_equal(crop[1:], crop[:-1], out=changed[1:-1])
    row, column = np.divmod(np.flatnonzero(changed), crop.shape[1])
    return runs_from_changes(np.sort((left + column) * size[0] + top + row))


def _runs_of_rle(rle: RLE | TextRLE, size: tuple[int, int]) -> Runs:
    lengths = run_lengths_from_counts(_counts(rle))
    if tuple(rle["size"]) != size or lengths is None or lengths.min() < 0 or lengths.sum() != size[0] * size[1]:
        raise ConfigError(f"an RLE of size {rle['size']} does not describe {size[0]} * {size[1]} pixels")
    ends = np.cumsum(lengths)
    return runs_from_changes(ends[: len(ends) // 2 * 2])  # zeros at the end are no run


def _counts(rle: RLE | TextRLE) -> bytes:
    counts = rle["counts"]
    if isinstance(counts, str) and counts.isascii():
        return counts.encode()
    if not isinstance(counts, bytes):
        raise ConfigError(
            f"an RLE's counts are {str(counts)[:40]!r} ({type(counts).__name__}); expected bytes or ASCII text, as"
            " pycocotools' frPyObjects makes them of a list of numbers"
        )
    return counts


def _window(runs: Runs, height: int) -> Window:
    if len(runs) == 0:
        return Window(0, 0, 0, 0)
    (first_x, first_y), (last_x, last_y) = np.divmod(runs[::2], height), np.divmod(runs[1::2] - 1, height)
    x, width = int(first_x[0]), int(last_x[-1] - first_x[0]) + 1
    if (first_x != last_x).any():  # a run over two columns has the last row and the first
        return Window(0, x, height, width)
    y = int(first_y.min())
    return Window(y, x, int(last_y.max()) - y + 1, width)


def crop_of_runs(runs: Runs, window: Window, height: int) -> BoolArray:
    """Make the pixels of a mask inside a window, `(window.height, window.width)`; `height` is the image's."""
    x, y = np.divmod(runs[::2], height)
    # in a crop that is lower than the image, no run goes on in the next column
    starts = (x - window.x) * window.height + y - window.y
    ends = np.stack((starts, starts + runs[1::2] - runs[::2]), axis=1).ravel()
    lengths = np.diff(ends, prepend=0, append=window.height * window.width)
    columns = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return columns.reshape(window.width, window.height).T
