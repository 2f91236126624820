"""Checks of single annotations in COCO's format: boxes, polygons, RLEs, and objects to train on."""

import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from condinst_deploy.data.annotation_arrays import Instance, Polygons, Segmentation
from condinst_deploy.data.annotation_blocks import FARTHEST, FARTHEST_BOX, NUMBERS, Known, most_length
from condinst_deploy.errors import DataError
from condinst_deploy.masks import RLE
from condinst_deploy.masks.rle import run_lengths_from_counts
from condinst_deploy.shown_text import shown_value

Scalar = TypeVar("Scalar", int, str)

_KINDS: dict[type, str] = {int: "a whole number", str: "text"}

LISTED = 5
"""Ids that an error lists."""

Reason = Literal[
    "crowd", "marked ignore", "without area", "below one pixel", "with a negative width or height",
    "within the first pixel", "outside its image", "polygons without area",
]  # fmt: skip
"""Reason why an annotation is not trained on."""


class LeftOut(NamedTuple):
    """An annotation that is not learnt."""

    annotation_id: int
    reason: Reason


def object_of(annotation: dict[str, Any], known: Known, where: str) -> Instance | LeftOut:
    """Check an annotation; return the object to train on, or why it is none.

    Raises:
        DataError: the annotation is malformed; `where` says whose it is.
    """
    image_id, category_id = (field_of(annotation, key, int, where) for key in ("image_id", "category_id"))
    if image_id not in known.rows:
        raise DataError(
            f"{where} has image_id {shown_value(image_id)}, which no image has; expected an id of the file's"
        )
    if category_id not in known.labels:
        raise DataError(
            f"{where} has category_id {shown_value(category_id)}, which no category has; expected the id of a"
            f" category: {_first(known.labels)}"
        )
    rows, columns = known.sizes[known.rows[image_id]].tolist()
    size = (rows, columns)
    x, y, width, height = checked_bbox(annotation.get("bbox"), where)
    area = annotation.get("area", 1)
    if not is_finite(area):
        raise DataError(f"{where} has area {shown_value(area)}; expected a finite number")
    box, parts = (x, y, x + width, y + height), annotation.get("segmentation")
    if is_crowd(annotation, where):
        return LeftOut(annotation["id"], "crowd")
    if annotation.get("ignore") is not None and _flag(annotation, "ignore", where):
        return LeftOut(annotation["id"], "marked ignore")
    reason = _unlearnable_box(box, size) or ("without area" if area <= 0 else None)
    if reason is None and isinstance(parts, list) and parts and all(is_degenerate(part) for part in parts):
        reason = "polygons without area"
    if reason is not None:
        return LeftOut(annotation["id"], reason)
    segmentation = checked_segmentation(parts, size, where)
    return Instance(box, known.labels[category_id], segmentation, annotation["id"], annotation.get("area"))


def _first(ids: Iterable[int]) -> str:
    listed = [shown_value(each) for each in islice(ids, LISTED + 1)]
    return ", ".join(listed[:LISTED]) + (", ..." if len(listed) > LISTED else "") or "there is none"


def _unlearnable_box(box: tuple[float, float, float, float], size: tuple[int, int]) -> Reason | None:
    """Return why mmdetection does not train on a box of an image of `size`, `(height, width)`; None if it does."""
    x1, y1, x2, y2 = box
    if x2 < x1 or y2 < y1:
        return "with a negative width or height"
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
    return _flag(annotation, "iscrowd", where)


def _flag(annotation: dict[str, Any], name: str, where: str) -> bool:
    value = annotation.get(name, 0)
    if (not is_finite(value) and not isinstance(value, bool)) or value not in (0, 1):
        raise DataError(f"{where} has {name} {shown_value(value)}; expected 0 or 1")
    return bool(value)


def checked_bbox(bbox: Any, where: str) -> list[float]:
    """A box `[x, y, width, height]`.

    Raises:
        DataError: it is not four finite numbers; `where` says whose it is.
    """
    if not isinstance(bbox, list) or len(bbox) != 4 or not all(is_place(value) for value in bbox):
        raise DataError(f"{where} has {_found('bbox', bbox)}; expected four finite numbers x, y, width, height")
    return bbox


def check_annotated_size(
    name: str, size: tuple[int, int], annotated: tuple[int, int], image_id: int, annotations: Path
) -> None:
    """Check that an image, called `name` in messages, has the annotated `(height, width)`.

    Raises:
        DataError: it has another size.
    """
    if size != annotated:
        raise DataError(
            f"{name} is {size[1]}x{size[0]}, but image {image_id} of {annotations} is annotated as"
            f" {annotated[1]}x{annotated[0]}; expected the data set's own images"
        )


def _found(name: str, value: Any) -> str:
    """What an annotation has under a name; None is nothing."""
    return f"no {name}" if value is None else f"{name} {shown_value(value)}"


def is_place(value: Any) -> bool:
    """Return whether a value from JSON can be a coordinate of a box."""
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
            raise DataError(
                f"{where} has polygons of fewer than six numbers alone, which have no area; expected six or more"
            )
        polygons = tuple(_polygon(part, size, where) for part in parts)
        _check_length(polygons, size, where)
        return polygons
    if isinstance(value, dict):
        return _rle(value, size, where)
    raise DataError(f"{where} has {_found('segmentation', value)}; expected polygons or an RLE")


def is_degenerate(part: Any) -> bool:
    """Return whether a polygon is a point or a line: two or four numbers. mmdetection drops it, too."""
    return isinstance(part, list) and len(part) < 6 and len(part) % 2 == 0 and are_numbers(part)


def are_numbers(part: list[Any]) -> bool:
    """Return whether all elements are numbers; an array takes true, false, text and pairs for numbers, too."""
    return NUMBERS.issuperset(map(type, part))


def not_numbers(part: Any, where: str) -> DataError:
    """The error of a polygon with an element that is no number; `where` says whose it is."""
    pairs = isinstance(part, list) and all(isinstance(each, list) and len(each) == 2 for each in part)
    expected = "one list of all coordinates, [x0, y0, x1, y1, ...], instead of pairs" if pairs else "numbers alone"
    return DataError(f"{where} has a polygon that is not a list of numbers: {shown_value(part)}; expected {expected}")


def merged_rle(segmentation: Segmentation, size: tuple[int, int]) -> RLE:
    """One RLE of a checked segmentation of an image of `size`, `(height, width)`."""
    if not isinstance(segmentation, tuple):
        return segmentation
    merged: RLE = coco_mask.merge(coco_mask.frPyObjects([part.tolist() for part in segmentation], *size))
    return merged


def _polygon(part: Any, size: tuple[int, int], where: str) -> npt.NDArray[np.float64]:
    if not isinstance(part, list):
        raise DataError(f"{where} has {shown_value(part)} where a polygon is expected: [[x0, y0, x1, y1, ...], ...]")
    if not are_numbers(part):
        raise not_numbers(part, where)
    if len(part) < 6 or len(part) % 2:
        raise DataError(f"{where} has a polygon of {len(part)} numbers; expected an even count of at least 6")
    try:
        polygon = np.array(part, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as e:
        raise not_numbers(part, where) from e
    far = ~(np.abs(polygon) <= FARTHEST * max(size))  # NaN, too
    if far.any():
        raise DataError(
            f"{where} has a polygon with a number that is not finite or far outside the image,"
            f" {shown_value(part[int(far.argmax())])}; expected at most {FARTHEST * max(size)}"
        )
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
        raise DataError(
            f"{where} has an RLE of size {shown_value(value.get('size'))}; its image is"
            f" {[height, width]}: expected the same"
        )
    counts = value.get("counts")
    runs = _runs(counts)
    pixels = height * width
    # each run first: the sum of larger ones could pass what an int64 holds, and come round
    if runs is None or not len(runs) or runs.min() < 0 or runs.max() > pixels or runs.sum() != pixels:
        raise DataError(
            f"{where} has a damaged RLE with counts {shown_value(counts)}; expected runs that add up to"
            f" {height} * {width} pixels"
        )
    if isinstance(counts, str):
        return {"size": [height, width], "counts": counts.encode()}
    compressed: RLE = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return compressed


def _runs(counts: Any) -> npt.NDArray[np.int64] | None:
    """Run lengths of an RLE's counts, compressed or not; None if they are neither."""
    if isinstance(counts, str):
        return run_lengths_from_counts(counts.encode()) if counts.isascii() else None
    if isinstance(counts, list) and all(type(n) is int and 0 <= n < 2**31 for n in counts):
        return np.array(counts, dtype=np.int64)
    return None


def field_of(entry: dict[str, Any], name: str, kind: type[Scalar], where: str) -> Scalar:
    """Return a field that is a whole number or text.

    Raises:
        DataError: it is missing or of another type; `where` says whose it is.
    """
    value = entry.get(name)
    if not isinstance(value, kind) or isinstance(value, bool):
        found = f"{name!r} {shown_value(value)}" if name in entry else f"no {name!r}"
        raise DataError(f"{where} has {found}; expected {_KINDS[kind]}")
    if isinstance(value, str) and not value.isascii() and not _is_utf8(value):
        raise DataError(f"{where} has {name!r} {shown_value(value)}; expected text that UTF-8 can encode")
    return value


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # a surrogate without its other half
        return False
    return True
