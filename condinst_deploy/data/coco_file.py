"""Files in COCO's format, read into lists of images, annotations and categories.

msgspec decodes a file into the types below and refuses values of other types. A file that it refuses is read once more
without types. The checks of single annotations (`annotation_checks`) then name the field, or accept a value that has
one meaning, such as the id `1.0`.
"""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from condinst_deploy.contract.artifacts import check_json
from condinst_deploy.data.annotation_checks import are_numbers, not_numbers
from condinst_deploy.errors import DataError
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.input_files import read_file
from condinst_deploy.support.json_text import json_value

OPTIONAL = ("iscrowd", "area", "ignore")
"""Fields for which null means what no field means."""

WHOLE = ("id", "image_id", "category_id", "height", "width")
"""Fields of COCO's format that are whole numbers."""

LARGEST_EXACT = 2**53
"""Largest whole number up to which float64 is exact."""


class ImageEntry(TypedDict):
    """An image; its other fields are left out."""

    id: int
    height: int
    width: int
    file_name: str


class CategoryEntry(TypedDict):
    """A class."""

    id: int
    name: str


class RleEntry(TypedDict):
    """A mask as run lengths, compressed or not."""

    size: list[int]
    counts: str | list[int]


class AnnotationEntry(TypedDict):
    """An object."""

    id: int
    image_id: int
    category_id: int
    bbox: list[int | float]
    segmentation: NotRequired[list[list[float]] | RleEntry]
    area: NotRequired[int | float]
    iscrowd: NotRequired[int | bool]
    ignore: NotRequired[int | bool | None]


class ResultEntry(TypedDict):
    """A detection of a results file."""

    image_id: int
    category_id: int
    score: int | float
    bbox: NotRequired[list[int | float]]
    segmentation: NotRequired[list[list[float]] | RleEntry]


class CocoFile(TypedDict):
    """A file of annotations."""

    images: list[ImageEntry]
    annotations: list[AnnotationEntry]
    categories: list[CategoryEntry]


def coco_content(path: Path) -> dict[str, Any]:
    """The lists of images, annotations and categories of a COCO-format file, in UTF-8, UTF-16 or UTF-32.

    Raises:
        ConfigError: it is a model, an image or a folder.
        DataError: it cannot be read, or one of them is not a list of dictionaries.
    """
    check_json(path, "a COCO annotation file (.json)")
    try:
        content, is_typed = typed_or_plain(read_file(path), CocoFile)
    except OSError as e:
        raise DataError(f"{path} cannot be read ({e.strerror or e}); expected a COCO-format JSON file") from e
    except ValueError as e:
        raise DataError(f"{path} is not JSON ({e}); expected a COCO-format file") from e
    content = _checked_lists(content, path)
    if not is_typed:
        _check_numbers(content["annotations"], path)
    return content


def _check_numbers(annotations: list[dict[str, Any]], path: Path) -> None:
    """Check that polygons have numbers alone: checks of many annotations at once take true and false for 1 and 0."""
    for annotation in annotations:
        parts = annotation.get("segmentation")
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, list) and not are_numbers(part):
                raise not_numbers(part, f"{path}: annotation {shown_value(annotation.get('id'))}")


def has_masks(content: dict[str, Any]) -> bool:
    """Return whether what `coco_content` read has masks: no annotation at all, or one with a `segmentation`."""
    annotations = content["annotations"]
    return not annotations or any(annotation.get("segmentation") for annotation in annotations)


def _checked_lists(content: Any, path: Path) -> dict[str, Any]:
    """The content, with its lists of objects checked and ids made whole."""
    if not isinstance(content, dict):
        raise DataError(
            f"{path} has no list 'images': it is {shown_value(content)}; expected COCO's format, an object with the"
            " lists images, annotations and categories"
        )
    for key in ("images", "annotations", "categories"):
        entries = content.get(key)
        if not isinstance(entries, list):
            found = f"is {shown_value(entries)}" if key in content else "is missing"
            raise DataError(f"{path} has no list {key!r}: it {found}; expected a list of objects, as in COCO's format")
        if not all(isinstance(entry, dict) for entry in entries):
            i, other = next((i, entry) for i, entry in enumerate(entries) if not isinstance(entry, dict))
            raise DataError(f"{path} has {key}[{i}] {shown_value(other)}; expected an object, as in COCO's format")
        make_whole(entries)
    return content


def typed_or_plain(text: bytes, kind: Any) -> tuple[Any, bool]:
    """The value of a JSON text, and whether it is of a type.

    Of a type, it has only the fields that the type has. Otherwise it is as `json_value` reads it.

    Raises:
        ValueError: it is not JSON.
    """
    import msgspec  # not for commands that read no annotations

    with no_collection():
        try:
            return msgspec.json.decode(text, type=kind), True
        except (msgspec.DecodeError, ValueError, RecursionError):
            pass
        try:
            return msgspec.json.decode(text), False
        except (msgspec.DecodeError, ValueError, RecursionError):  # NaN, byte order marks, UTF-16, long numbers; or
            return json_value(text), False  # what is wrong with it


def make_whole(entries: Iterable[dict[str, Any]]) -> None:
    """Turn ids and sizes that are written as `1.0` into whole numbers, and take out `null` for nothing, in place.

    Above 2**53 a float can mean several whole numbers; it is left unchanged and refused later.
    """
    for entry in entries:
        for name in OPTIONAL:
            if name in entry and entry[name] is None:
                del entry[name]
        for name in WHOLE:
            value = entry.get(name)
            if type(value) is float and value.is_integer() and abs(value) <= LARGEST_EXACT:
                entry[name] = int(value)


@contextmanager
def no_collection() -> Iterator[None]:
    """Switch off garbage collection, which takes half the time of reading millions of objects."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
