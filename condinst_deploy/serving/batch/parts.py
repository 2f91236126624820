"""Parts: the file of a shard, in Parquet or in COCO's JSON."""

from abc import ABC, abstractmethod
from io import BytesIO
from typing import Any

from condinst_deploy.errors import ConfigError
from condinst_deploy.serving.batch.batch_options import Format
from condinst_deploy.serving.batch.output_rows import Classes, ImageRow, arrow_schema, arrow_table, coco_entries
from condinst_deploy.serving.batch.parquet_inputs import pyarrow
from condinst_deploy.serving.batch.storage import PART_PREFIX, OutputFolder
from condinst_deploy.shown_text import counted
from condinst_deploy.support.json_text import json_text

SUFFIXES: dict[Format, str] = {"parquet": ".parquet", "coco": ".json"}
PARQUET_MAGIC = b"PAR1"
"""First and last bytes of a Parquet file; before the last ones stands the length of the footer, in 4 bytes."""

COCO_START, COCO_END = b'{"categories"', b"]}\n"

ROW_GROUP = 64
"""Rows that are encoded at a time: their masks are then held compressed."""


def part_name(index: int, form: Format) -> str:
    """The file name of a shard's part; names sort in the input's order up to 100 million parts."""
    return f"{PART_PREFIX}{index:08d}{SUFFIXES[form]}"


def finished_parts(out: OutputFolder, form: Format, shards: int) -> frozenset[int]:
    """Indices of the shards whose parts are there and whole.

    On a disk the first and last bytes of each part are read: a file system may lose them in a power cut. An upload to
    an object store is visible whole or not at all.

    Raises:
        ConfigError: the folder has a part that is not one of the run's `shards` parts.
        OutputError: the folder or a part cannot be read.
    """
    done = set()
    for name, size in out.files():
        if not (name.startswith(PART_PREFIX) and name.endswith(SUFFIXES[form])):
            continue
        number = name[len(PART_PREFIX) : -len(SUFFIXES[form])]
        index = int(number) if number.isdecimal() else -1
        if not 0 <= index < shards or name != part_name(index, form):
            raise ConfigError(
                f"{out.name} has {name}, which is not one of the {counted(shards, 'part')} of this run;"
                " move it away, or name another --out"
            )
        if size and _is_complete(out, name, form):
            done.add(index)
    return frozenset(done)


def is_whole(out: OutputFolder, name: str, form: Format) -> bool:
    """Return True if a part is there, and begins and ends as its format does."""
    return out.exists(name) and _is_complete(out, name, form)


def _is_complete(out: OutputFolder, name: str, form: Format) -> bool:
    ends = out.ends(name, 16)
    if ends is None:
        return True
    if form == "coco":
        return ends.first.startswith(COCO_START) and ends.last.endswith(COCO_END)
    footer = int.from_bytes(ends.last[-8:-4], "little")
    framed = ends.first.startswith(PARQUET_MAGIC) and ends.last.endswith(PARQUET_MAGIC)
    return framed and 0 < footer <= ends.size - 12  # the magic bytes twice, and the length


class PartEncoder(ABC):
    """Takes the rows of a shard one by one, and encodes them."""

    def __init__(self, classes: Classes) -> None:
        self.classes = classes

    @abstractmethod
    def add(self, row: ImageRow) -> None:
        """Take the next row."""

    @abstractmethod
    def finish(self) -> bytes:
        """Return the content of the part."""


class ParquetEncoder(PartEncoder):
    """Parquet, compressed with Zstandard."""

    def __init__(self, classes: Classes) -> None:
        super().__init__(classes)
        self._buffer, self._held = BytesIO(), list[ImageRow]()
        self._writer = pyarrow().parquet.ParquetWriter(self._buffer, arrow_schema(classes), compression="zstd")

    def add(self, row: ImageRow) -> None:
        """Take the next row."""
        self._held.append(row)
        if len(self._held) == ROW_GROUP:
            self._flush()

    def finish(self) -> bytes:
        """Return the content of the part."""
        self._flush()
        self._writer.close()
        return self._buffer.getvalue()

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(arrow_table(self._held, self.classes))
            self._held = []


class CocoEncoder(PartEncoder):
    """A COCO data set: images, categories, annotations with scores; and `errors`, images that have no detections."""

    def __init__(self, classes: Classes) -> None:
        super().__init__(classes)
        self._images, self._annotations, self._errors = list[str](), list[str](), list[str]()

    def add(self, row: ImageRow) -> None:
        """Take the next row."""
        named = {"id": row.position + 1, "file_name": row.path}
        if row.detections is None:
            self._errors.append(json_text({**named, "error": row.error, "reason": row.reason}, row.path))
            return
        height, width = row.detections.masks.size
        self._images.append(json_text({**named, "width": width, "height": height}, row.path))
        # ids that are unique in all parts: no model gives a million detections an image
        first = (row.position + 1) * 1_000_000
        areas = row.detections.masks.areas.tolist()
        for number, (entry, area) in enumerate(zip(coco_entries(row), areas, strict=True)):
            extra = {"id": first + number, "area": area, "iscrowd": 0}
            self._annotations.append(json_text({**entry, **extra}, row.path))

    def finish(self) -> bytes:
        """Return the content of the part."""
        pairs = zip(self.classes.category_ids, self.classes.names, strict=True)
        lists: dict[str, list[Any]] = {
            "categories": [json_text({"id": number, "name": name}, "a class") for number, name in pairs],
            "images": self._images,
            "annotations": self._annotations,
            "errors": self._errors,
        }
        parts = (f'"{name}": [' + ",\n".join(entries) + "]" for name, entries in lists.items())
        return ("{" + ",\n".join(parts) + "}\n").encode("utf-8", "backslashreplace")


def part_encoder(form: Format, classes: Classes) -> PartEncoder:
    """Return the encoder of a format."""
    return ParquetEncoder(classes) if form == "parquet" else CocoEncoder(classes)
