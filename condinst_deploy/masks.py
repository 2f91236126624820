"""Compact instance masks: a crop and an offset per instance; RLE, polygons and dense masks on demand."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from contourpy import LineType, contour_generator
from pycocotools import mask as coco_mask

from condinst_deploy.errors import ConfigError

BoolArray = npt.NDArray[np.bool_]
Selector = int | slice | Sequence[int] | npt.NDArray[Any]


class RLE(TypedDict):
    """COCO's compressed run-length encoding, as pycocotools gives and takes it."""

    size: list[int]  # height, width
    counts: bytes


@dataclass(frozen=True, eq=False, repr=False)
class Masks:
    """Binary masks of the instances of one picture.

    Attributes:
        size: `(H, W)` of the picture.
        offsets: `(n, 2)` int64 `(y, x)` of each crop's first pixel in the picture.
        crops: n bool arrays `(h_i, w_i)`; outside its crop a mask is empty. An empty mask may be `(0, 0)`.
    """

    size: tuple[int, int]
    offsets: npt.NDArray[np.int64]
    crops: tuple[BoolArray, ...]

    def __post_init__(self) -> None:
        """Check that every crop lies inside the picture.

        Raises:
            ConfigError: a field's shape or type is wrong.
        """
        if self.offsets.shape != (len(self.crops), 2):
            raise ConfigError(f"mask offsets have shape {self.offsets.shape}; expected ({len(self.crops)}, 2)")
        for (y, x), crop in zip(self.offsets.tolist(), self.crops, strict=True):
            if crop.dtype != np.bool_ or crop.ndim != 2:
                raise ConfigError(f"a mask crop is {crop.dtype} {crop.shape}; expected bool (h, w)")
            if y < 0 or x < 0 or y + crop.shape[0] > self.size[0] or x + crop.shape[1] > self.size[1]:
                raise ConfigError(f"a mask crop {crop.shape} at {(y, x)} leaves the picture {self.size}")

    @classmethod
    def from_dense(cls, dense: npt.NDArray[Any]) -> "Masks":
        """Crop dense masks `(n, H, W)`; what is not zero belongs to the instance."""
        if dense.ndim != 3:
            raise ConfigError(f"dense masks have shape {dense.shape}; expected (n, H, W)")
        trimmed = [trimmed_crop(mask != 0) for mask in dense]
        offsets = np.array([offset for offset, _ in trimmed], dtype=np.int64).reshape(-1, 2)
        return cls((dense.shape[1], dense.shape[2]), offsets, tuple(crop for _, crop in trimmed))

    @classmethod
    def from_rle(cls, rles: Sequence[RLE], size: tuple[int, int]) -> "Masks":
        """Decode COCO RLEs of a picture of `size`, one dense mask at a time."""
        trimmed = [trimmed_crop(coco_mask.decode(rle).astype(np.bool_)) for rle in rles]
        offsets = np.array([offset for offset, _ in trimmed], dtype=np.int64).reshape(-1, 2)
        return cls(size, offsets, tuple(crop for _, crop in trimmed))

    def __repr__(self) -> str:
        return f"Masks({len(self)} in {self.size[1]}x{self.size[0]})"

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, which: Selector) -> "Masks":
        """The masks of an index, a slice, a list of indices or a bool array `(n,)`; always a `Masks`."""
        picked = np.atleast_1d(np.arange(len(self))[which])
        return Masks(self.size, self.offsets[picked], tuple(self.crops[i] for i in picked))

    def __iter__(self) -> Iterator["Masks"]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Dense masks `(n, H, W)`, bool unless another type is asked for."""
        if copy is False:
            raise ValueError("dense masks are made on demand: a copy cannot be avoided")
        dense = np.zeros((len(self), *self.size), dtype=dtype or np.bool_)
        for mask, (y, x), crop in zip(dense, self.offsets.tolist(), self.crops, strict=True):
            mask[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        return dense

    @property
    def areas(self) -> npt.NDArray[np.int64]:
        """`(n,)` number of pixels of each mask."""
        return np.array([np.count_nonzero(crop) for crop in self.crops], dtype=np.int64)

    def rle(self) -> list[RLE]:
        """COCO RLE of every mask, the same bytes as pycocotools' `encode` of the dense mask."""
        height, width = self.size
        return [
            coco_mask.frPyObjects(
                {"size": [height, width], "counts": _run_lengths(crop, int(y), int(x), self.size)}, height, width
            )
            for (y, x), crop in zip(self.offsets, self.crops, strict=True)
        ]

    def polygons(self) -> list[list[npt.NDArray[np.float32]]]:
        """Closed outlines of every mask, in pixels, where the centre of pixel `(0, 0)` is at `(0.5, 0.5)`.

        Returns:
            For each mask a list of `(m, 2)` float32 `(x, y)` polygons through the middles between pixel
            centres, corners cut: exactly the mask's pixels have their centres inside. Parts and holes are
            polygons of their own (even-odd rule). A mask of no pixels has none.
        """
        return [_outlines(crop, int(y), int(x)) for (y, x), crop in zip(self.offsets, self.crops, strict=True)]


def trimmed_crop(mask: BoolArray) -> tuple[tuple[int, int], BoolArray]:
    """Cut `mask` to the bounding rectangle of its pixels: `((y, x), crop)`; `(0, 0)` and `(0, 0)` if empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if len(rows) == 0:
        return (0, 0), np.zeros((0, 0), dtype=np.bool_)
    top, left = int(rows[0]), int(columns[0])
    # a copy: a view would keep the whole mask alive
    return (top, left), mask[top : rows[-1] + 1, left : columns[-1] + 1].copy()


def _run_lengths(crop: BoolArray, top: int, left: int, size: tuple[int, int]) -> list[int]:
    """Column-major run lengths of the picture that holds `crop`, starting with the zeros."""
    height, width = size
    columns = np.zeros((crop.shape[1], crop.shape[0] + 2), dtype=np.int8)  # (w, 1 + h + 1)
    columns[:, 1:-1] = crop.T
    column, row = np.nonzero(np.diff(columns, axis=1))  # every change, in column-major order
    changes = (left + column) * height + top + row  # starts and ends in turn
    # a run that ends at a column's bottom goes on where the next begins at its top
    joined = np.flatnonzero(changes[1:-1:2] == changes[2::2]) * 2 + 1
    changes = np.delete(changes, np.concatenate((joined, joined + 1)))
    counts: list[int] = np.diff(changes, prepend=0, append=height * width).tolist()
    return counts[:-1] if counts[-1] == 0 and len(counts) > 1 else counts


def _outlines(crop: BoolArray, top: int, left: int) -> list[npt.NDArray[np.float32]]:
    if crop.size == 0:
        return []
    padded = np.pad(crop, 1).astype(np.float64)
    lines = contour_generator(z=padded, line_type=LineType.Separate).lines(0.5)
    # padded index i is pixel i - 1, whose centre is at i - 0.5
    return [(np.asarray(line) + (left - 0.5, top - 0.5)).astype(np.float32) for line in lines]
