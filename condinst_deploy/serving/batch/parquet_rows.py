"""Images in the rows of Parquet files, and in tables of Arrow: a column of contents, of paths, or of both."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from condinst_deploy.errors import ConfigError, DataError
from condinst_deploy.serving.batch.storage import filesystem_of, is_url, public_url

CONTENTS = ("image", "bytes", "image_bytes", "content", "jpg", "png")
PATHS = ("path", "file_name", "image_path", "url", "uri")
"""Names of columns, in the order in which they are looked for."""

READ_ROWS = 32
"""Rows that are read at a time."""


class ImageSource(NamedTuple):
    """An image that is not decoded yet."""

    name: str  # the path of the row that is written
    content: bytes | None  # the file's content; None: it is read from `name`


def pyarrow() -> Any:
    """Return the library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise ConfigError("Parquet needs pyarrow: pip install 'condinst-deploy[ray]', or write --format coco") from e
    return pyarrow


@contextmanager
def parquet_file(name: str) -> Iterator[Any]:
    """Open a Parquet file, local or behind a URL.

    Raises:
        DataError: it cannot be read, or is damaged.
    """
    library = pyarrow()
    try:
        if is_url(name):
            filesystem, path = filesystem_of(name)
            with filesystem.open(path, "rb") as stream, library.parquet.ParquetFile(stream, pre_buffer=False) as file:
                yield file
        else:
            with library.parquet.ParquetFile(name, pre_buffer=False, buffer_size=1 << 20) as file:
                yield file
    except (OSError, library.ArrowException) as e:
        raise DataError(f"{public_url(name)} cannot be read as Parquet ({str(e)[:200]})") from e


def row_count(name: str) -> int:
    """Number of rows of a Parquet file, from its footer."""
    with parquet_file(name) as file:
        return int(file.metadata.num_rows)


def sources_of_rows(name: str, first: int, count: int, column: str | None) -> Iterator[ImageSource]:
    """Read the images of consecutive rows. Row groups before them are skipped.

    Raises:
        ConfigError: no column has images.
        DataError: the file cannot be read.
    """
    with parquet_file(name) as file:
        columns = _columns(file.schema_arrow, column, public_url(name))
        groups, before = _groups_from(file.metadata, first)
        names = list(dict.fromkeys(name for name in columns if name is not None))
        position = before
        for batch in file.iter_batches(READ_ROWS, row_groups=groups, columns=names):
            start, end = max(first - position, 0), min(first + count - position, batch.num_rows)
            if start < end:
                wanted = batch.slice(start, end - start)
                yield from _sources(wanted, columns, f"{name}#", position + start)
            position += batch.num_rows
            if position >= first + count:
                return


def sources_of_table(table: Any, column: str | None, where: str) -> tuple[str, list[ImageSource]]:
    """The column of images of a table of Arrow, and its images; rows without a name are called by their number.

    Raises:
        ConfigError: no column has images.
    """
    columns = _columns(table.schema, column, where)
    return columns.image, list(_sources(table, columns, "row ", 0))


class _Columns(NamedTuple):
    image: str
    name: str | None


def _columns(schema: Any, column: str | None, where: str) -> _Columns:
    types = pyarrow().types
    names: list[str] = schema.names
    if column is not None and column not in names:
        raise ConfigError(f"{where} has no column {column!r}; its columns are {', '.join(names)}")
    candidates = [column] if column is not None else [name for name in (*CONTENTS, *PATHS) if name in names]
    for name in candidates:
        kind = schema.field(name).type
        if _is_content(types, kind):
            label = next((other for other in (*PATHS, "name", "id") if other in names and other != name), None)
            return _Columns(name, label)
        if types.is_string(kind) or types.is_large_string(kind):
            return _Columns(name, None)
    raise ConfigError(
        f"{where} has no column of images: its columns are {', '.join(names)}; name one of contents (binary), of"
        " paths (string), or of structs with the field 'bytes' with --column"
    )


def _is_content(types: Any, kind: Any) -> bool:
    if types.is_struct(kind):
        return any(kind.field(i).name == "bytes" for i in range(kind.num_fields))
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _groups_from(metadata: Any, first: int) -> tuple[list[int], int]:
    """The row groups from that of row `first` on, and the number of rows before them."""
    before = 0
    for group in range(metadata.num_row_groups):
        rows = metadata.row_group(group).num_rows
        if before + rows > first:
            return list(range(group, metadata.num_row_groups)), before
        before += rows
    return [], before


def _sources(table: Any, columns: _Columns, prefix: str, first: int) -> Iterator[ImageSource]:
    values = table.column(columns.image).to_pylist()
    labels = values if columns.name is None else table.column(columns.name).to_pylist()
    for row, (value, label) in enumerate(zip(values, labels, strict=True), start=first):
        if isinstance(value, dict):  # a struct, as Hugging Face's datasets has images
            label = value.get("path") or (label if label is not value else None)
            value = value["bytes"] if value["bytes"] is not None else value.get("path")
        unnamed = f"{prefix}{row}"
        if isinstance(value, str):
            yield ImageSource(value or unnamed, None)
        else:
            name = unnamed if label is None or isinstance(label, bytes | dict) else str(label)
            yield ImageSource(name, value or b"")
