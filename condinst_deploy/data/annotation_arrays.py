"""Images and objects of a large data set in a few flat arrays.

Millions of Python objects are slow to make, and a forked process that reads one writes its reference count: the page
is copied. Arrays stay shared.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from condinst_deploy.masks import RLE

Polygons = tuple[npt.NDArray[np.float64], ...]
"""Parts `(2m,)`: x0, y0, x1, y1, ..."""

Segmentation = Polygons | RLE

Ids = npt.NDArray[np.int64] | npt.NDArray[np.object_]
"""Ids of COCO files; Python's own numbers where 64 bits with a sign are too few."""


class Instance(NamedTuple):
    """One object to learn."""

    box: tuple[float, float, float, float]  # xyxy
    label: int
    segmentation: Segmentation
    annotation_id: int
    area: float | None  # as annotated


class Record(NamedTuple):
    """One image and its objects, as annotated."""

    image_id: int
    path: Path
    size: tuple[int, int]  # height, width
    instances: list[Instance]


class Images(NamedTuple):
    """Images of a data set, in the file's order."""

    folder: Path
    names: "Texts"
    ids: Ids  # (images,)
    sizes: npt.NDArray[np.int64]  # (images, 2) height, width


class Block(NamedTuple):
    """Objects whose masks are polygons."""

    places: npt.NDArray[np.int64]  # (n,) numbers of the annotations in the file
    images: npt.NDArray[np.int64]  # (n,) rows of `Images`
    labels: npt.NDArray[np.int64]  # (n,)
    boxes: npt.NDArray[np.float64]  # (n, 4) xyxy
    areas: npt.NDArray[np.float64]  # (n,) NaN: not annotated
    ids: list[int]
    parts: npt.NDArray[np.int64]  # (n,) polygons of each
    part_lengths: npt.NDArray[np.int64]  # (polygons,) numbers of each
    numbers: npt.NDArray[np.float64]  # x0, y0, x1, y1, ... of all polygons


class ObjectArrays(NamedTuple):
    """Objects of all images. The index of an object is its row in `labels`, `boxes`, `areas` and `ids`."""

    order: npt.NDArray[np.int64]  # (n,) objects by image, and by place in the file
    starts: npt.NDArray[np.int64]  # (images + 1,) first of each image in `order`
    labels: npt.NDArray[np.int64]  # (n,)
    boxes: npt.NDArray[np.float64]  # (n, 4) xyxy
    areas: npt.NDArray[np.float64]  # (n,) NaN: not annotated
    ids: Ids  # (n,)
    part_starts: npt.NDArray[np.int64]  # (n + 1,) first polygon of each
    number_starts: npt.NDArray[np.int64]  # (polygons + 1,) first number of each
    numbers: npt.NDArray[np.float64]
    rle_index: npt.NDArray[np.int64]  # (n,) number among the RLEs; -1: polygons
    counts: npt.NDArray[np.uint8]  # compressed RLEs, one after the other
    count_starts: npt.NDArray[np.int64]  # (RLEs + 1,)

    def of_image(self, image: int) -> npt.NDArray[np.int64]:
        """Objects of a row of `Images`, in the order of their annotations."""
        return self.order[self.starts[image] : self.starts[image + 1]]

    def segmentation(self, index: int, size: tuple[int, int]) -> Segmentation:
        """Polygons or RLE of an object of an image of `size`, `(height, width)`."""
        rle = int(self.rle_index[index])
        if rle >= 0:
            counts = self.counts[self.count_starts[rle] : self.count_starts[rle + 1]]
            return {"size": list(size), "counts": counts.tobytes()}
        first, last = self.part_starts[index : index + 2]
        edges = self.number_starts[first : last + 1].tolist()
        return tuple(self.numbers[a:b] for a, b in pairwise(edges))

    def instance(self, index: int, size: tuple[int, int]) -> Instance:
        """An object of an image of `size`, `(height, width)`."""
        x1, y1, x2, y2 = self.boxes[index].tolist()
        area = float(self.areas[index])
        label, annotation_id = int(self.labels[index]), int(self.ids[index])
        known = None if np.isnan(area) else area
        return Instance((x1, y1, x2, y2), label, self.segmentation(index, size), annotation_id, known)


class ObjectCollector:
    """Objects as they are read, until `arrays`."""

    def __init__(self) -> None:
        self._places, self._images, self._labels, self._parts = array("q"), array("q"), array("q"), array("q")
        self._boxes, self._areas = array("d"), array("d")
        self._ids: list[int] = []
        self._numbers, self._part_lengths = array("d"), array("q")
        self._counts: list[bytes] = []

    def add(self, place: int, image: int, instance: Instance) -> None:
        """Append an object of a row of `Images`; `place` is its annotation's number in the file."""
        segmentation = instance.segmentation
        polygons = segmentation if isinstance(segmentation, tuple) else ()
        self.extend(
            Block(
                places=np.array([place]),
                images=np.array([image]),
                labels=np.array([instance.label]),
                boxes=np.array([instance.box], dtype=np.float64),
                areas=np.array([np.nan if instance.area is None else instance.area], dtype=np.float64),
                ids=[instance.annotation_id],
                parts=np.array([len(polygons)]),
                part_lengths=np.array([len(part) for part in polygons], dtype=np.int64),
                numbers=np.concatenate(polygons) if polygons else np.zeros(0),
            )
        )
        if not isinstance(segmentation, tuple):
            counts = segmentation["counts"]
            self._counts.append(counts if isinstance(counts, bytes) else str(counts).encode())

    def extend(self, block: Block) -> None:
        """Append many objects."""
        for own, new in (
            (self._places, block.places),
            (self._images, block.images),
            (self._labels, block.labels),
            (self._parts, block.parts),
            (self._part_lengths, block.part_lengths),
            (self._boxes, block.boxes),
            (self._areas, block.areas),
            (self._numbers, block.numbers),
        ):
            own.frombytes(new.tobytes())
        self._ids += block.ids

    def arrays(self, images: int) -> ObjectArrays:
        """All objects, with those of each of so many images found by its row."""
        owners, parts = _viewed(self._images, np.int64), _viewed(self._parts, np.int64)
        no_polygons = parts == 0
        return ObjectArrays(
            order=np.lexsort((_viewed(self._places, np.int64), owners)),
            starts=_starts(np.bincount(owners, minlength=images)),
            labels=_viewed(self._labels, np.int64),
            boxes=_viewed(self._boxes, np.float64).reshape(-1, 4),
            areas=_viewed(self._areas, np.float64),
            ids=id_array(self._ids),
            part_starts=_starts(parts),
            number_starts=_starts(_viewed(self._part_lengths, np.int64)),
            numbers=_viewed(self._numbers, np.float64),
            rle_index=np.where(no_polygons, no_polygons.cumsum() - 1, -1),
            counts=np.frombuffer(b"".join(self._counts), dtype=np.uint8),
            count_starts=_starts(np.array([len(each) for each in self._counts], dtype=np.int64)),
        )


class Texts:
    """Short texts in one block of bytes."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode() for text in texts]
        self._block = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = _starts(np.array([len(each) for each in encoded], dtype=np.int64))

    def __getitem__(self, index: int) -> str:
        return self._block[self._ends[index] : self._ends[index + 1]].tobytes().decode()


class Records(Sequence[Record]):
    """Images and their objects, made when they are asked for."""

    def __init__(self, images: Images, objects: ObjectArrays, rows: npt.NDArray[np.int64]) -> None:
        """Choose `rows` of `images`."""
        self.images, self.objects, self.rows = images, objects, rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "Records": ...
    def __getitem__(self, index: int | slice) -> "Record | Records":
        if isinstance(index, slice):
            return Records(self.images, self.objects, self.rows[index])
        row = int(self.rows[index])
        height, width = self.images.sizes[row].tolist()
        instances = [self.objects.instance(i, (height, width)) for i in self.objects.of_image(row).tolist()]
        path = self.images.folder / self.images.names[row]
        return Record(int(self.images.ids[row]), path, (height, width), instances)

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """`(n, 2)` height and width of each image."""
        return self.images.sizes[self.rows]

    def owned(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Indices of all objects of these images, image by image, and the number of each object's image: `(m,)`."""
        first = self.objects.starts[self.rows]
        counts = self.objects.starts[self.rows + 1] - first
        owners = np.repeat(np.arange(len(self.rows)), counts)
        within = np.arange(len(owners)) - np.repeat(counts.cumsum() - counts, counts)
        return self.objects.order[first[owners] + within], owners


class Paths(Sequence[Path]):
    """Files of images, made when they are asked for."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        images, rows = self._records.images, self._records.rows
        if isinstance(index, slice):
            return [images.folder / images.names[row] for row in rows[index].tolist()]
        return images.folder / images.names[int(rows[index])]

    def __iter__(self) -> Iterator[Path]:
        return (self[i] for i in range(len(self)))


def id_array(ids: Sequence[int]) -> Ids:
    """Ids as an array `(n,)`."""
    try:
        return np.array(ids, dtype=np.int64)
    except OverflowError:
        return np.array(ids, dtype=np.object_)


def _starts(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Lengths `(n,)` of parts that lie one after the other -> first of each, and the end `(n + 1,)`."""
    return np.concatenate((np.zeros(1, dtype=np.int64), lengths.cumsum(dtype=np.int64)))


def _viewed(values: "array[Any]", kind: type) -> npt.NDArray[Any]:
    """The memory of an `array.array`, without a copy."""
    return np.frombuffer(values, dtype=kind) if len(values) else np.zeros(0, dtype=kind)
