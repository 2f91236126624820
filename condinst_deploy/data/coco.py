"""Data sets in COCO's format, read with checks. Training targets are chosen as in mmdetection's CocoDataset."""

import gc
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from condinst_deploy.data.annotation_arrays import (
    Images,
    Instance,
    ObjectCollector,
    Paths,
    Polygons,
    Records,
    Segmentation,
    Texts,
    id_array,
)
from condinst_deploy.data.annotation_blocks import BLOCK, FARTHEST, FARTHEST_BOX, Known, block_of, most_length
from condinst_deploy.errors import DataError, ImageError
from condinst_deploy.imaging.decode import RGBArray, rgb_from
from condinst_deploy.masks import RLE, BoolArray
from condinst_deploy.masks.rle import run_lengths_from_counts
from condinst_deploy.shown_text import shown_value

Scalar = TypeVar("Scalar", int, str)

MIN_SIZE = 32
"""Images with a side below so many pixels are not trained on."""

LONGEST_SIDE, MOST_PIXELS = 65_535, 1 << 28
"""Of an annotated image; pycocotools counts in 32 bits, and a mask takes a byte a pixel."""

LARGEST_ID = (1 << 64) - 1

WHOLE = ("id", "image_id", "category_id", "height", "width")
"""Fields of COCO's format that are whole numbers."""

LARGEST_EXACT = 2**53
"""Up to here a float64 stands for one whole number alone."""

LISTED = 5
"""Number of entries that an error lists."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and its instances; crowds are not among them."""

    image_id: int
    image: npt.NDArray[np.uint8]  # (H, W, 3) RGB
    boxes: npt.NDArray[np.float32]  # (n, 4) xyxy, pixels
    labels: npt.NDArray[np.int64]  # (n,)
    segmentations: tuple[Segmentation, ...]  # n, as annotated


Reason = Literal[
    "crowd", "marked ignore", "without area", "below one pixel", "within the first pixel", "outside its image",
    "polygons without area",
]  # fmt: skip
"""Reason why an annotation is not trained on."""


class LeftOut(NamedTuple):
    """An annotation that is not learnt."""

    annotation_id: int
    reason: Reason


class CocoDataset:
    """Images of a folder and the instances that a COCO-format JSON file gives them.

    Categories sorted by id are labels 0, 1, ... Instances that are crowds, marked `ignore`, without area, below
    one pixel, or outside the image are left out.

    Attributes:
        annotations: the JSON file.
        class_names: name of each label.
        category_ids: id of each label.
        image_ids: id of each image, in the file's order.
        paths: file of each image.
        records: the images with their objects; in arrays, which processes share.
        all_records: also those that are not trained on, in the file's order.
        left_out: annotations that are no objects to learn.
        dropped_parts: polygons of fewer than six numbers that were taken out of objects with others.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path | None,
        training: bool,
        *,
        keep_empty: bool = False,
        min_size: int = MIN_SIZE,
        content: dict[str, Any] | None = None,
        limit: int | None = None,
        boxes_only: bool = False,
    ) -> None:
        """Read and check the annotations, and see that every image is there.

        Args:
            annotations: COCO-format JSON.
            images: folder of the images; None: they are not looked for.
            training: leave out images without instances and small ones.
            keep_empty: keep images without instances all the same.
            min_size: shortest side of an image to train on, in pixels.
            content: what `coco_content` read from the file, if it was read already.
            limit: take the first so many images; the others need not be there.
            boxes_only: segmentations are not looked at; each object's is its box.

        Raises:
            DataError: the file is not in COCO's format, an annotation is malformed (named by its id), an image
                is missing (named), or nothing is left.
        """
        self.annotations = annotations
        self.left_out: list[LeftOut] = []
        self.dropped_parts = 0
        with _no_collection():
            content = coco_content(annotations) if content is None else content
            categories = sorted(_by_id(content["categories"], "category", annotations).items())
            self.category_ids = tuple(category_id for category_id, _ in categories)
            self.class_names = tuple(_field(c, "name", str, f"{annotations}: category {i}") for i, c in categories)
            listed = _images(content["images"], images or Path(), annotations)
            labels = {category_id: label for label, category_id in enumerate(self.category_ids)}
            rows = {image_id: row for row, image_id in enumerate(listed.ids.tolist())}
            known = Known(rows, listed.sizes, labels)
            entries = _boxed(content["annotations"]) if boxes_only else content["annotations"]
            objects = self._collected(entries, known).arrays(len(rows))
        self.all_records = Records(listed, objects, np.arange(len(rows)))
        kept = (listed.sizes.min(axis=1) >= min_size) & (keep_empty | (np.diff(objects.starts) > 0))
        chosen = np.flatnonzero(kept) if training else self.all_records.rows
        self.records = Records(listed, objects, chosen[:limit])
        if not len(self.records):
            what = f"to train on{self._why_nothing()}" if training else "to look at"
            raise DataError(f"{annotations} has no images {what}")
        self.image_ids: tuple[int, ...] = tuple(listed.ids[self.records.rows].tolist())
        self.paths = Paths(self.records)
        if images is not None:
            _check_present(self.paths, images)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        """Decode an image.

        Raises:
            DataError: it cannot be decoded or has another size than annotated.
        """
        record = self.records[index]
        image = _decoded(record.path)
        if image.shape[:2] != record.size:
            raise DataError(
                f"{record.path} is {image.shape[1]}x{image.shape[0]}, but image {record.image_id} of"
                f" {self.annotations} is annotated as {record.size[1]}x{record.size[0]}"
            )
        return Sample(
            image_id=record.image_id,
            image=image,
            boxes=np.array([i.box for i in record.instances], dtype=np.float32).reshape(-1, 4),
            labels=np.array([i.label for i in record.instances], dtype=np.int64),
            segmentations=tuple(i.segmentation for i in record.instances),
        )

    @property
    def landscape(self) -> npt.NDArray[np.bool_]:
        """Of each image, whether it is at least as wide as high."""
        sizes = self.records.sizes
        return np.asarray(sizes[:, 1] >= sizes[:, 0], dtype=np.bool_)

    def _why_nothing(self) -> str:
        """The reasons why no annotation is an object to learn, with the first of each; "" where there is none."""
        counts = Counter(each.reason for each in self.left_out)
        first = {each.reason: each.annotation_id for each in reversed(self.left_out)}
        listed = ", ".join(f"{count} {reason} (annotation {first[reason]}, ...)" for reason, count in counts.items())
        pixels = "; COCO's numbers are pixels, not 0..1" if "within the first pixel" in counts else ""
        return f": annotations left out: {listed}{pixels}" if listed else ""

    def _collected(self, annotations: list[dict[str, Any]], known: Known) -> ObjectCollector:
        """All objects to learn; what is not learnt is noted in `left_out`."""
        _by_id(annotations, "annotation", self.annotations)
        collector = ObjectCollector()
        for first in range(0, len(annotations), BLOCK):
            several = annotations[first : first + BLOCK]
            block, others = block_of(several, first, known)
            collector.extend(block)
            for i in others:
                annotation = several[i]
                found = _object(annotation, known, f"{self.annotations}: annotation {annotation['id']}")
                if isinstance(found, LeftOut):
                    self.left_out.append(found)
                    continue
                collector.add(first + i, known.rows[annotation["image_id"]], found)
                if isinstance(found.segmentation, tuple):
                    self.dropped_parts += len(annotation["segmentation"]) - len(found.segmentation)
        # ids that are objects of their own: one of the file's would keep the memory around it from being returned
        ids = id_array([each.annotation_id for each in self.left_out]).tolist()
        self.left_out = [LeftOut(own, each.reason) for own, each in zip(ids, self.left_out, strict=True)]
        return collector


def _boxed(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Annotations with their boxes as polygons; boxes that are none are left as they are, to be named later."""
    return [
        annotation | {"segmentation": [_rectangle(*box)]}
        if isinstance(box := annotation.get("bbox"), list) and len(box) == 4 and all(_is_place(each) for each in box)
        else annotation
        for annotation in annotations
    ]


def _rectangle(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Millions of new objects would be looked at for cycles again and again: half the time of reading."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def masks_at(sample: Sample, size: tuple[int, int], flipped: bool = False) -> BoolArray:
    """Masks `(n, h, w)` of a sample resized to `size`, and mirrored if `flipped`, as mmdetection makes them.

    Polygons are scaled, mirrored and then rasterised, which differs by single pixels from a mirrored bitmap; bitmaps
    are sampled at `floor(i * old / new)` and then mirrored. What lies beyond the image is cut off at the image, where
    mmdetection cuts at its padding.
    """
    height, width = sample.image.shape[:2]
    masks = np.zeros((len(sample.segmentations), *size), dtype=np.bool_)
    for mask, segmentation in zip(masks, sample.segmentations, strict=True):
        if isinstance(segmentation, tuple):
            mask[:] = _rasterised(segmentation, (height, width), size, flipped)
        else:
            bitmap = _nearest(coco_mask.decode(segmentation), size)
            mask[:] = bitmap[:, ::-1] if flipped else bitmap
    return masks


def _rasterised(polygons: Polygons, old: tuple[int, int], new: tuple[int, int], flipped: bool) -> BoolArray:
    scale = np.array([new[1] / old[1], new[0] / old[0]])  # x, y
    scaled = [(part.reshape(-1, 2) * scale).ravel() for part in polygons]
    if flipped:
        for part in scaled:
            part[::2] = new[1] - part[::2]
    return np.asarray(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(scaled, *new))), dtype=np.bool_)


def _nearest(mask: npt.NDArray[np.uint8], size: tuple[int, int]) -> BoolArray:
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, mask.shape, strict=True))
    return mask[np.ix_(rows, columns)].astype(np.bool_)


def _decoded(path: Path) -> RGBArray:
    try:
        return rgb_from(path)  # the decoder of inference
    except ImageError as e:
        raise DataError(str(e)) from e


def coco_content(path: Path) -> dict[str, Any]:
    """The lists of images, annotations and categories of a COCO-format file, in UTF-8, UTF-16 or UTF-32.

    Raises:
        DataError: it cannot be read, or one of them is not a list of dictionaries.
    """
    try:
        content: dict[str, Any] = _decoded_json(path.read_bytes())
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror or e}); expected a COCO-format JSON file") from e
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path} is not JSON ({e}); expected a COCO-format file") from e
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path} is not in COCO's format: it has no list {key!r}")
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise DataError(f"{path} is not in COCO's format: {key!r} has entries that are not objects")
        make_whole(content[key])
    return content


def _decoded_json(text: bytes) -> Any:
    """As `json.loads`, in a quarter of the time for what both accept."""
    import msgspec  # not for commands that read no annotations

    with _no_collection():
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):  # NaN, byte order marks, UTF-16; or what is wrong with it
            return json.loads(text)


def make_whole(entries: Iterable[dict[str, Any]]) -> None:
    """Turn ids and sizes that are written as `1.0` into whole numbers, in place.

    Above 2**53 a fraction may stand for several whole numbers; it stays and is refused later.
    """
    for entry in entries:
        for name in WHOLE:
            value = entry.get(name)
            if type(value) is float and value.is_integer() and abs(value) <= LARGEST_EXACT:
                entry[name] = int(value)


def _by_id(entries: list[dict[str, Any]], kind: str, path: Path) -> dict[int, dict[str, Any]]:
    for position, entry in enumerate(entries, start=1):
        where = f"{path}: {kind} number {position}"
        if abs(_field(entry, "id", int, where)) > LARGEST_ID:
            raise DataError(f"{where} has id {shown_value(entry['id'])}; expected a number of 64 bits")
    twice = [str(i) for i, count in Counter(entry["id"] for entry in entries).items() if count > 1]
    if twice:
        raise DataError(f"{path}: {kind} ids are not unique: {_listed(twice)}")
    return {entry["id"]: entry for entry in entries}


def _images(entries: list[dict[str, Any]], folder: Path, path: Path) -> Images:
    names, sizes = [], []
    by_id = _by_id(entries, "image", path)
    for image_id, entry in by_id.items():
        where = f"{path}: image {image_id}"
        size = (_field(entry, "height", int, where), _field(entry, "width", int, where))
        if not (min(size) >= 1 and max(size) <= LONGEST_SIDE and size[0] * size[1] <= MOST_PIXELS):
            raise DataError(
                f"{where} has height {shown_value(size[0])} and width {shown_value(size[1])}; expected 1 to"
                f" {LONGEST_SIDE}, and at most {MOST_PIXELS} pixels"
            )
        names.append(_field(entry, "file_name", str, where))
        sizes.append(size)
    return Images(folder, Texts(names), id_array(list(by_id)), np.array(sizes, dtype=np.int64).reshape(-1, 2))


def _field(entry: dict[str, Any], name: str, kind: type[Scalar], where: str) -> Scalar:
    value = entry.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where} has {name!r} {shown_value(value)}; expected {_KINDS[kind]}")
    if isinstance(value, str) and not value.isascii() and not _is_utf8(value):
        raise DataError(f"{where} has {name!r} {shown_value(value)}; expected text that UTF-8 can encode")
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a surrogate without its other half
        return False
    return True


_KINDS: dict[type, str] = {int: "a whole number", str: "text"}


def _object(annotation: dict[str, Any], known: Known, where: str) -> Instance | LeftOut:
    image_id, category_id = (_field(annotation, key, int, where) for key in ("image_id", "category_id"))
    if image_id not in known.rows:
        raise DataError(f"{where} has image_id {shown_value(image_id)}, which no image has")
    if category_id not in known.labels:
        raise DataError(f"{where} has category_id {shown_value(category_id)}, which no category has")
    rows, columns = known.sizes[known.rows[image_id]].tolist()
    size = (rows, columns)
    x, y, width, height = checked_bbox(annotation.get("bbox"), where)
    area = annotation.get("area", 1)
    if not is_finite(area):
        raise DataError(f"{where} has area {shown_value(area)}; expected a finite number")
    box, parts = (x, y, x + width, y + height), annotation.get("segmentation")
    if is_crowd(annotation, where):
        return LeftOut(annotation["id"], "crowd")
    if annotation.get("ignore"):
        return LeftOut(annotation["id"], "marked ignore")
    reason = _unlearnable_box(box, size) or ("without area" if area <= 0 else None)
    if reason is None and isinstance(parts, list) and parts and all(is_degenerate(part) for part in parts):
        reason = "polygons without area"
    if reason is not None:
        return LeftOut(annotation["id"], reason)
    segmentation = checked_segmentation(parts, size, where)
    return Instance(box, known.labels[category_id], segmentation, annotation["id"], annotation.get("area"))


def _unlearnable_box(box: tuple[float, float, float, float], size: tuple[int, int]) -> Reason | None:
    """Return why mmdetection does not train on a box of an image of `size`, `(height, width)`; None if it does."""
    x1, y1, x2, y2 = box
    if x2 - x1 < 1 or y2 - y1 < 1:
        return "within the first pixel" if 0 <= x1 <= x2 <= 1 and 0 <= y1 <= y2 <= 1 else "below one pixel"
    if min(x2, size[1]) <= max(x1, 0) or min(y2, size[0]) <= max(y1, 0):
        return "outside its image"
    return None


def is_crowd(annotation: dict[str, Any], where: str) -> bool:
    """Return whether an annotation marks a crowd; without `iscrowd` it does not.

    Raises:
        DataError: `iscrowd` is neither 0 nor 1; `where` says whose it is.
    """
    value = annotation.get("iscrowd", 0)
    if (not is_finite(value) and not isinstance(value, bool)) or value not in (0, 1):
        raise DataError(f"{where} has iscrowd {shown_value(value)}; expected 0 or 1")
    return bool(value)


def checked_bbox(bbox: Any, where: str) -> list[float]:
    """A box `[x, y, width, height]`.

    Raises:
        DataError: it is not four finite numbers; `where` says whose it is.
    """
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(_is_place(value) for value in bbox):
        raise DataError(f"{where} has bbox {shown_value(bbox)}; expected four finite numbers x, y, width, height")
    return bbox


def _is_place(value: Any) -> bool:
    return is_finite(value) and abs(value) <= FARTHEST_BOX


def is_finite(value: Any) -> bool:
    """Return whether a value from JSON is a number that float64 can hold."""
    # a comparison, for JSON's whole numbers can be too large for a float
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def checked_segmentation(value: Any, size: tuple[int, int], where: str) -> Segmentation:
    """Polygons or an RLE of an image of `size`, `(height, width)`, as annotation and result files have them.

    Raises:
        DataError: it is neither, or damaged; `where` says whose it is.
    """
    if isinstance(value, list) and value:
        parts = [part for part in value if not is_degenerate(part)]
        if not parts:
            raise DataError(f"{where} has polygons of fewer than six numbers alone, which have no area")
        polygons = tuple(_polygon(part, size, where) for part in parts)
        _check_length(polygons, size, where)
        return polygons
    if isinstance(value, dict):
        return _rle(value, size, where)
    raise DataError(f"{where} has segmentation {shown_value(value)}; expected polygons or an RLE")


def is_degenerate(part: Any) -> bool:
    """Return whether a polygon is a point or a line: two or four numbers. mmdetection drops it, too."""
    return isinstance(part, list) and len(part) < 6 and len(part) % 2 == 0


def merged_rle(segmentation: Segmentation, size: tuple[int, int]) -> RLE:
    """One RLE of a checked segmentation of an image of `size`, `(height, width)`."""
    if not isinstance(segmentation, tuple):
        return segmentation
    merged: RLE = coco_mask.merge(coco_mask.frPyObjects([part.tolist() for part in segmentation], *size))
    return merged


def _polygon(part: Any, size: tuple[int, int], where: str) -> npt.NDArray[np.float64]:
    if not isinstance(part, list):
        raise DataError(f"{where} has {shown_value(part)} where a polygon is expected: [[x0, y0, x1, y1, ...], ...]")
    if len(part) < 6 or len(part) % 2:
        raise DataError(f"{where} has a polygon of {len(part)} numbers; expected an even count of at least 6")
    try:
        polygon = np.array(part, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as e:
        raise DataError(f"{where} has a polygon that is not a list of numbers: {shown_value(part)}") from e
    if not (np.abs(polygon) <= FARTHEST * max(size)).all():
        raise DataError(f"{where} has a polygon with a number that is not finite or far outside the image")
    return polygon


def _check_length(polygons: Polygons, size: tuple[int, int], where: str) -> None:
    """Rasterising takes memory for every pixel of the outline, however often it crosses the image."""
    most = most_length(*size)
    length = 0.0
    for part in polygons:
        corners = part.reshape(-1, 2)
        length += float(np.abs(np.roll(corners, -1, axis=0) - corners).max(axis=1).sum())
    if length > most:
        raise DataError(
            f"{where} has an outline of {length:.0f} pixels in an image of {size[1]}x{size[0]}; expected at most {most}"
        )


def _rle(value: dict[str, Any], size: tuple[int, int], where: str) -> RLE:
    height, width = size
    if value.get("size") != [height, width]:
        raise DataError(f"{where} has an RLE of size {shown_value(value.get('size'))}; its image is {[height, width]}")
    counts = value.get("counts")
    runs = _runs(counts)
    pixels = height * width
    # each run first: the sum of larger ones could pass what an int64 holds, and come round
    if runs is None or not len(runs) or runs.min() < 0 or runs.max() > pixels or runs.sum() != pixels:
        raise DataError(f"{where} has a damaged RLE; expected runs that add up to {height} * {width} pixels")
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode()}
    compressed: RLE = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return compressed


def _runs(counts: Any) -> npt.NDArray[np.int64] | None:
    """Run lengths of an RLE's counts, compressed or not; None where they are neither."""
    if isinstance(counts, str):
        return run_lengths_from_counts(counts.encode()) if counts.isascii() else None
    if isinstance(counts, list) and all(type(n) is int and 0 <= n < 2**31 for n in counts):
        return np.array(counts, dtype=np.int64)
    return None


def _check_present(paths: Iterable[Path], folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"no folder of images at {folder}")
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise DataError(f"{len(missing)} images are missing from {folder}: {_listed(missing)}")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
