"""One row for each image: what a batch run writes, in Arrow's terms and in COCO's.

Version 1 of the schema. Rows have the order of the input, and every image of the input has exactly one row.

| column | type | content |
| --- | --- | --- |
| `position` | int64 | place in the input, from 0 |
| `path` | string | path or URL of the image, or the name of its row |
| `width`, `height` | int32 | size of the upright image; null if it could not be read |
| `boxes` | list of 4 float32 | x1, y1, x2, y2 in pixels |
| `scores` | list of float32 | best first |
| `labels` | list of int32 | index of the class |
| `names` | list of string | name of the class |
| `masks` | list of binary | counts of COCO's compressed RLE; its size is [height, width] |
| `error` | string | null, or `missing`, `unreadable`, `damaged` or `failed` |
| `reason` | string | null, or one line that says why |

The metadata of the file has the version (`condinst.rows`), and the names of the classes and the data set's ids of them
as JSON (`condinst.class_names`, `condinst.category_ids`).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.errors import DataError
from condinst_deploy.masks import RLE, Masks
from condinst_deploy.serving.batch.parquet_inputs import parquet_file, pyarrow
from condinst_deploy.support.json_text import json_text

VERSION = 1

ErrorKind = Literal["missing", "unreadable", "damaged", "failed"]
"""No such file; the file exists and reading it failed; its content is no image that can be decoded; the model failed
on the image, and did not on others of its shard."""


@dataclass(frozen=True, eq=False)
class ImageRow:
    """Outcome of one image: its detections, or the reason why it has none."""

    position: int  # in the input
    path: str
    detections: InstanceDetections | None
    error: ErrorKind | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Classes:
    """The classes of a model."""

    names: tuple[str, ...]
    category_ids: tuple[int, ...]


def arrow_schema(classes: Classes) -> Any:
    """The schema of the table above."""
    pa = pyarrow()
    fields = [
        ("position", pa.int64()),
        ("path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("boxes", pa.list_(pa.list_(pa.float32(), 4))),
        ("scores", pa.list_(pa.float32())),
        ("labels", pa.list_(pa.int32())),
        ("names", pa.list_(pa.string())),
        ("masks", pa.list_(pa.binary())),
        ("error", pa.string()),
        ("reason", pa.string()),
    ]
    metadata = {
        "condinst.rows": str(VERSION),
        "condinst.class_names": json_text(classes.names, "the class names"),
        "condinst.category_ids": json_text(classes.category_ids, "the category ids"),
    }
    return pa.schema(fields, metadata)


def arrow_table(rows: Sequence[ImageRow], classes: Classes) -> Any:
    """A table of some rows."""
    pa = pyarrow()
    schema = arrow_schema(classes)
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    for row in rows:
        for name, value in _values(row).items():
            columns[name].append(value)
    return pa.table({name: pa.array(columns[name], schema.field(name).type) for name in schema.names}, schema)


def read_part(path: str) -> Iterator[ImageRow]:
    """Read the rows of a Parquet part, local or behind a URL.

    Raises:
        DataError: it cannot be read, or this toolkit did not write it.
    """
    with parquet_file(path) as file:
        metadata = file.schema_arrow.metadata or {}
        version = metadata.get(b"condinst.rows", b"").decode()
        if version != str(VERSION):
            raise DataError(f"{path} has rows of version {version!r}; this release reads {VERSION}")
        names, ids = (json.loads(metadata[f"condinst.{name}".encode()]) for name in ("class_names", "category_ids"))
        classes = Classes(tuple(names), tuple(ids))
        for batch in file.iter_batches(64):
            yield from (_row(values, classes) for values in batch.to_pylist())


def coco_entries(row: ImageRow, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Entries of a COCO results file; the image's id is its position and 1, so that no id is 0.

    Args:
        row: of an image.
        category_ids: the data set's id of each class; None: the model's own.
    """
    found = row.detections
    if found is None:
        return []
    if category_ids is not None:
        found = InstanceDetections(
            found.boxes, found.scores, found.labels, found.masks, found.class_names, tuple(category_ids)
        )
    return found.to_coco(row.position + 1)


def _values(row: ImageRow) -> dict[str, Any]:
    found = row.detections
    values: dict[str, Any] = {"position": row.position, "path": _text(row.path), "error": row.error}
    values["reason"] = None if row.reason is None else _text(row.reason)
    if found is None:
        empty: dict[str, Any] = {name: [] for name in ("boxes", "scores", "labels", "names", "masks")}
        return {**values, **empty, "width": None, "height": None}
    height, width = found.masks.size
    return {
        **values,
        "width": width,
        "height": height,
        "boxes": list(found.boxes),
        "scores": found.scores,
        "labels": found.labels.astype(np.int32),
        "names": found.names,
        "masks": [rle["counts"] for rle in found.masks.rle()],
    }


def _text(text: str) -> str:
    """Names of files may hold bytes that are no UTF-8; they are written escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _row(values: dict[str, Any], classes: Classes) -> ImageRow:
    if values["height"] is None:
        return ImageRow(values["position"], values["path"], None, values["error"], values["reason"])
    size = (values["height"], values["width"])
    rles: list[RLE] = [{"size": list(size), "counts": counts} for counts in values["masks"]]
    detections = InstanceDetections(
        boxes=np.array(values["boxes"], dtype=np.float32).reshape(-1, 4),
        scores=np.array(values["scores"], dtype=np.float32),
        labels=np.array(values["labels"], dtype=np.int64),
        masks=Masks.from_rle(rles, size),
        class_names=classes.names,
        category_ids=classes.category_ids,
    )
    return ImageRow(values["position"], values["path"], detections)
