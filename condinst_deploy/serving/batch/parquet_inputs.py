"""Images in the rows of Parquet files, and in tables of Arrow: a column of contents, of paths, or of both."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from condinst_deploy.errors import CondInstError, ConfigError, DataError
from condinst_deploy.shown_text import shown
from condinst_deploy.support.extras import install_command
from condinst_deploy.support.remote_files import ATTEMPTS, filesystem_of, is_url, joined, public_reason, public_url

CONTENTS = ("image", "bytes", "image_bytes", "content", "jpg", "png")
PATHS = ("path", "file_name", "image_path", "url", "uri")
"""Names of columns, in the order in which they are looked for."""

READ_ROWS = 32
"""Rows that are read at a time."""


class ImageSource(NamedTuple):
    """An image that is not decoded yet."""

    name: str  # the path of the row that is written
    content: bytes | None  # the file's content; None: it is read from `name`
    damage: str | None = None  # why the row cannot be read


def pyarrow() -> Any:
    """Return the library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as e:
        raise ConfigError(f"Parquet needs pyarrow: {install_command('ray')}, or write --format coco") from e
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
            with _opened(name) as stream, library.parquet.ParquetFile(stream, pre_buffer=False) as file:
                yield file
        else:
            with library.parquet.ParquetFile(name, pre_buffer=False, buffer_size=1 << 20) as file:
                yield file
    except CondInstError:
        raise
    except Exception as e:
        # damaged files raise errors of many kinds, and each storage library raises its own exceptions
        raise DataError(f"{public_url(name)} cannot be read as Parquet ({public_reason(e)})") from e


def _opened(name: str) -> BinaryIO:
    if not is_url(name):
        return Path(name).open("rb")
    filesystem, path = filesystem_of(name)
    stream: BinaryIO = filesystem.open(path, "rb")
    return stream


def row_count(name: str) -> int:
    """Number of rows of a Parquet file, from its footer.

    Raises:
        DataError: it cannot be read, or contradicts itself.
    """
    with parquet_file(name) as file:
        metadata = file.metadata
        rows, groups = int(metadata.num_rows), map(metadata.row_group, range(metadata.num_row_groups))
        held = sum(max(0, int(group.num_rows)) for group in groups)
    if rows != held:
        raise DataError(
            f"{public_url(name)} is damaged: its footer says {rows:,} rows, and its row groups have {held:,}; write the"
            " file again, or leave it out"
        )
    return rows


def sources_of_rows(name: str, first: int, count: int, column: str | None) -> Iterator[ImageSource]:
    """Read the images of consecutive rows, row group by row group. Relative paths start at the file's folder.

    The rest of a row group that is damaged becomes sources with `damage`; the next row group is read again.

    Raises:
        ConfigError: no column has images, or two columns have its name.
        DataError: the file cannot be read, and the reason is not that a row group is damaged.
    """
    with parquet_file(name) as file:
        columns, before = _columns(file.schema_arrow, column, public_url(name)), 0
        for group in range(file.metadata.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            start, end = max(first - before, 0), min(first + count - before, rows)
            if start < end:
                yield from _sources_of_group(_Group(file, name, group, before), columns, start, end)
            before += rows


def sources_of_table(table: Any, column: str | None, where: str) -> tuple[str, list[ImageSource]]:
    """The column of images of a table of Arrow, and its images; rows without a name are called by their number.

    Raises:
        ConfigError: no column has images.
    """
    columns = _columns(table.schema, column, where)
    return columns.image, list(_sources(table, columns, "row ", 0))


def image_column(schema: Any, column: str | None, where: str) -> str:
    """The name of the column of images of a schema of Arrow.

    Raises:
        ConfigError: no column has images, or two columns have its name.
    """
    return _columns(schema, column, where).image


class _Columns(NamedTuple):
    image: str
    name: str | None


def _columns(schema: Any, column: str | None, where: str) -> _Columns:
    types = pyarrow().types
    names: list[str] = schema.names
    if column is not None and column not in names:
        raise ConfigError(f"{where} has no column {column!r}; its columns are {_listed(names)}")
    candidates = [column] if column is not None else [name for name in (*CONTENTS, *PATHS) if name in names]
    for name in candidates:
        if names.count(name) > 1:
            raise ConfigError(f"{where} has {names.count(name)} columns {name!r}; name another one with --column")
        kind = schema.field(name).type
        if _is_content(types, kind):
            label = next((other for other in (*PATHS, "name", "id") if names.count(other) == 1 and other != name), None)
            return _Columns(name, label)
        if _is_text(types, kind):
            return _Columns(name, None)
    described = _listed([f"{field.name} ({shown(field.type, 60)})" for field in schema])
    raise ConfigError(
        f"{where} has no column of images: its columns are {described}; name one of contents (binary), of paths"
        " (string), or of structs with the field 'bytes' (binary) with --column"
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 20} more" if len(names) > 20 else ""
    return ", ".join(names[:20]) + more


def _is_content(types: Any, kind: Any) -> bool:
    if types.is_struct(kind):
        parts = [kind.field(i) for i in range(kind.num_fields)]
        return any(part.name == "bytes" and _is_binary(types, part.type) for part in parts)
    return _is_binary(types, kind)


def _is_binary(types: Any, kind: Any) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    checks = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def _is_text(types: Any, kind: Any) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return any(check(kind) for check in (types.is_string, types.is_large_string, types.is_string_view))


class _Group(NamedTuple):
    """A row group of an open file."""

    file: Any  # pyarrow.parquet.ParquetFile
    name: str
    number: int
    before: int  # rows of the file before the group

    def batches(self, names: list[str], start: int, end: int) -> Iterator[tuple[int, Any]]:
        """Rows from `start` to `end` in small batches, each with the place of its first row in the group."""
        position = 0
        for batch in self.file.iter_batches(READ_ROWS, row_groups=[self.number], columns=names):
            first, last = max(start - position, 0), min(end - position, batch.num_rows)
            if first < last:
                yield position + first, batch.slice(first, last - first)
            position += batch.num_rows
            if position >= end:
                return

    def check_in_reach(self, names: list[str]) -> None:
        """Read the bytes of columns: if that works, an error before is the file's and not the storage's."""
        group = self.file.metadata.row_group(self.number)
        with _opened(self.name) as stream:
            for chunk in map(group.column, range(group.num_columns)):
                if chunk.path_in_schema.split(".")[0] in names:
                    stream.seek(max(0, chunk.dictionary_page_offset or chunk.data_page_offset))
                    left = chunk.total_compressed_size
                    while left > 0 and (block := stream.read(min(left, 1 << 20))):
                        left -= len(block)


def _sources_of_group(group: _Group, columns: "_Columns", start: int, end: int) -> Iterator[ImageSource]:
    names = list(dict.fromkeys(name for name in columns if name is not None))
    folder = group.name.rpartition("/")[0]
    for attempt in range(ATTEMPTS):
        try:
            for first, batch in group.batches(names, start, end):
                # a list, so that an error comes before the first row of the batch
                found = list(_sources(batch, columns, f"{group.name}#", group.before + first))
                start = first + len(found)
                yield from (
                    source if source.content is not None else source._replace(name=joined(folder, source.name))
                    for source in found
                )
            if start == end:
                return
            reason = "the row group has fewer rows than the file's footer says"
        except Exception as e:  # damaged files raise errors of many kinds
            reason = public_reason(e)
        if is_url(group.name) and attempt + 1 < ATTEMPTS:
            time.sleep(0.5 * 2**attempt)
    group.check_in_reach(names)
    for row in range(group.before + start, group.before + end):
        yield ImageSource(f"{group.name}#{row}", None, f"the row cannot be read ({reason})")


def _sources(table: Any, columns: _Columns, prefix: str, first: int) -> Iterator[ImageSource]:
    values = _values(table.column(columns.image))
    labels = values if columns.name is None else _values(table.column(columns.name))
    for row, (value, label) in enumerate(zip(values, labels, strict=True), start=first):
        if isinstance(value, dict):  # a struct, as Hugging Face's datasets has images
            label = value.get("path") or (label if label is not value else None)
            path = value.get("path")
            value = value["bytes"] if value["bytes"] is not None or not isinstance(path, str) else path
        unnamed = f"{prefix}{row}"
        if isinstance(value, str):
            yield ImageSource(value or unnamed, None)
        else:
            name = unnamed if label is None or isinstance(label, bytes | dict) else str(label)
            yield ImageSource(name, value or b"")


def _values(column: Any) -> list[Any]:
    """The values of a column; names of files may hold bytes that are no UTF-8, which Arrow does not convert."""
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]
    return values


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if hasattr(scalar, "keys"):  # a struct
            return {name: _value(scalar[name]) for name in scalar}
        text: bytes = getattr(scalar, "value", scalar).as_buffer().to_pybytes()  # of a dictionary, its value
        return text.decode(errors="surrogateescape")
