"""Files in COCO's format, read into lists of images, annotations and categories."""

import gc
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from condinst_deploy.contract.artifacts import check_json
from condinst_deploy.errors import DataError

WHOLE = ("id", "image_id", "category_id", "height", "width")
"""Fields of COCO's format that are whole numbers."""

LARGEST_EXACT = 2**53
"""Largest whole number up to which float64 is exact."""


def coco_content(path: Path) -> dict[str, Any]:
    """The lists of images, annotations and categories of a COCO-format file, in UTF-8, UTF-16 or UTF-32.

    Raises:
        ConfigError: it is a model, an image or a folder.
        DataError: it cannot be read, or one of them is not a list of dictionaries.
    """
    check_json(path, "a COCO annotation file (.json)")
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
    """Return the value of `json.loads`, in a quarter of its time for texts that msgspec accepts."""
    import msgspec  # not for commands that read no annotations

    with no_collection():
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):  # NaN, byte order marks, UTF-16; or what is wrong with it
            return json.loads(text)


def make_whole(entries: Iterable[dict[str, Any]]) -> None:
    """Turn ids and sizes that are written as `1.0` into whole numbers, in place.

    Above 2**53 a float can mean several whole numbers; it is left unchanged and refused later.
    """
    for entry in entries:
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
