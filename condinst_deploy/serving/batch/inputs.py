"""The input of a batch run: a folder, a glob pattern, a list file or Parquet files, local or behind a URL."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TextIO

from condinst_deploy.contract.artifacts import kind_words
from condinst_deploy.errors import CondInstError, ConfigError, DataError, ImageError
from condinst_deploy.imaging.image_files import SUFFIXES, is_image_name
from condinst_deploy.serving.batch.shards import PathSpan, RowSpan, Span
from condinst_deploy.serving.batch.storage import PART_PREFIX
from condinst_deploy.support.digests import sha256_of_text
from condinst_deploy.support.remote_files import (
    StoredFile,
    absolute,
    filesystem_of,
    is_pattern,
    is_url,
    joined,
    list_files,
    local_path,
    public_reason,
    public_url,
)

PARQUET = frozenset({".parquet", ".pq"})
LISTS = frozenset({".txt", ".lst", ".list"})
"""Endings of list files: one path or URL a line."""

LIST_ENCODING = "utf-8-sig"
"""UTF-8; a byte order mark, which editors on Windows write, is no part of the first path."""

LONGEST_LINE = 8192
SPAN = 1024
"""Paths that are taken from a listing at a time."""


class Fingerprint(NamedTuple):
    """Identity of an input: its length, and a digest of the names and their order."""

    images: int
    sha256: str


class BatchInput(ABC):
    """Images in a fixed order."""

    kind: str

    @abstractmethod
    def spans(self) -> Iterator[Span]:
        """The images, in order."""

    @abstractmethod
    def entries(self) -> Iterator[tuple[str, int]]:
        """Texts that identify the input, in order, and the number of images of each."""

    def fingerprint(self) -> Fingerprint:
        """Read the names of the whole input once. Memory does not depend on their number."""
        digest, images = "", 0
        for text, count in self.entries():
            digest = sha256_of_text(f"{digest}\n{text}")  # of all before, and of this one
            images += count
        return Fingerprint(images, digest)


class FileInput(BatchInput):
    """Image files of a folder or a pattern. Their names are held in memory; the fingerprint has sizes and times."""

    def __init__(self, kind: str, files: Sequence[StoredFile]) -> None:
        self.kind = kind
        self._files = files

    def spans(self) -> Iterator[Span]:
        """The images, in order."""
        return _path_spans(file.path for file in self._files)

    def entries(self) -> Iterator[tuple[str, int]]:
        """Texts that identify the input, and the number of images of each."""
        return ((f"{file.path}\t{file.size}\t{file.state}", 1) for file in self._files)


class ListInput(BatchInput):
    """A text file with a path or a URL a line. It is read line by line; the fingerprint has the names alone.

    Relative paths start at the folder of the list.
    """

    kind = "list"

    def __init__(self, text: str) -> None:
        self._text = text

    def spans(self) -> Iterator[Span]:
        """The images, in order."""
        return _path_spans(self._paths())

    def entries(self) -> Iterator[tuple[str, int]]:
        """Texts that identify the input, and the number of images of each."""
        return ((path, 1) for path in self._paths())

    def _paths(self) -> Iterator[str]:
        try:
            yield from self._lines()
        except CondInstError:
            raise
        except Exception as e:  # each storage library raises its own exceptions
            raise DataError(f"{public_url(self._text)} cannot be read ({public_reason(e)})") from e

    def _lines(self) -> Iterator[str]:
        folder, shown = self._text.rpartition("/")[0], public_url(self._text)
        with _opened_text(self._text) as stream:
            for number, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE + 1), ""), start=1):
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{shown}: line {number} is longer than {LONGEST_LINE}; expected a path a line")
                name = line.rstrip("\r\n")
                if "\0" in name:
                    raise DataError(f"{shown}: line {number} has a zero byte; expected a text file, a path a line")
                if name.strip():
                    yield joined(folder, name)


class ParquetInput(BatchInput):
    """Rows of Parquet files. Only their footers are read here."""

    kind = "parquet"

    def __init__(self, files: Sequence[StoredFile]) -> None:
        self._files = files

    def spans(self) -> Iterator[Span]:
        """The images, in order."""
        return (RowSpan(file.path, 0, count) for file, count in self._counted() if count)

    def entries(self) -> Iterator[tuple[str, int]]:
        """Texts that identify the input, and the number of images of each."""
        return ((f"{file.path}\t{file.size}\t{file.state}\t{count}", count) for file, count in self._counted())

    def _counted(self) -> Iterator[tuple[StoredFile, int]]:
        from condinst_deploy.serving.batch.parquet_inputs import row_count

        return ((file, row_count(file.path)) for file in self._files)


def open_input(text: str, out: str | None = None) -> BatchInput:
    """Find out what kind of input a path, a pattern or a URL is.

    Args:
        text: the path, the pattern or the URL.
        out: path or URL of the folder of the output, which may lie in the input's; its Parquet parts are no input.

    Raises:
        ImageError: nothing is there, or there are no images.
        ConfigError: it is a file of another kind, a folder of both images and Parquet files, or a library is missing.
    """
    name = text if is_url(text) else str(local_path(text))
    suffix = Path(name).suffix.lower()
    single = not is_pattern(name) if is_url(name) else not has_magic(name) or Path(name).exists()  # a folder [1]
    is_file = single and (is_url(name) or not Path(name).is_dir())  # a folder may have any name
    if is_file and suffix in LISTS:
        _check_there(name)
        return ListInput(name)
    if is_file and suffix in PARQUET | SUFFIXES:
        _check_there(name)
        files = [_stored(name)]
        return ParquetInput(files) if suffix in PARQUET else FileInput("file", files)
    return _listed(name, single, out)


def _listed(name: str, single: bool, out: str | None) -> BatchInput:
    files = list_files(name, not single) if is_url(name) else _local_files(name, single)
    if out is not None:
        folder = _comparable(out)
        files = [file for file in files if not _is_part_in(folder, file.path)]
    shown = public_url(name)
    images = [file for file in files if is_image_name(Path(file.path))]
    tables = [file for file in files if Path(file.path).suffix.lower() in PARQUET]
    if images and tables:
        raise ConfigError(f"{shown} holds images and Parquet files; give a pattern such as '*.jpg' or '*.parquet'")
    if not images and not tables:
        kinds = ", ".join(sorted(SUFFIXES | PARQUET))
        raise ImageError(f"no images at {shown}; expected files ending in {kinds}, or a list file ending in .txt")
    return ParquetInput(tables) if tables else FileInput("folder" if single else "pattern", images)


def _comparable(folder: str) -> str:
    """The path or URL of a folder, as those of listed files begin."""
    if not is_url(folder):
        return absolute(folder)
    return f"{folder.split('://', 1)[0]}://{filesystem_of(folder)[1].rstrip('/')}"


def _is_part_in(folder: str, path: str) -> bool:
    parent, _, name = path.rpartition("/")
    if not (name.startswith(PART_PREFIX) and name.endswith(".parquet")):
        return False
    return (parent if is_url(path) else absolute(parent)) == folder


def _local_files(name: str, single: bool) -> list[StoredFile]:
    if single:
        if not Path(name).is_dir():
            expected = "expected an image, a folder, a pattern, a list file (.txt) or a .parquet file"
            if Path(name).is_file():
                raise ConfigError(f"the input {name} is {kind_words(Path(name))}; {expected}")
            raise ImageError(f"no input at {name}; {expected}")
        paths: Iterable[str] = _walked(name)
    else:
        paths = (path for path in glob(name, recursive=True) if Path(path).is_file())  # noqa: PTH207
    known = SUFFIXES | PARQUET
    wanted = (path for path in paths if os.path.splitext(path)[1].lower() in known)  # noqa: PTH122
    try:
        return sorted(_stored(path) for path in wanted)
    except OSError as e:
        raise ImageError(f"{e.filename} cannot be looked up ({e.strerror})") from e


def _walked(folder: str) -> Iterator[str]:
    def failed(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=failed):
        yield from (os.path.join(parent, name) for name in names)  # noqa: PTH118  (many names: Path is slow)


def _stored(name: str) -> StoredFile:
    if is_url(name):
        filesystem, path = filesystem_of(name)
        info = filesystem.info(path)
        return StoredFile(name, int(info.get("size") or 0), str(info.get("ETag") or info.get("mtime") or ""))
    try:
        status = os.stat(name)  # noqa: PTH116
    except OSError:  # a link that leads nowhere, or in a circle, becomes a row with an error
        return StoredFile(name, 0, "")
    return StoredFile(name, status.st_size, str(status.st_mtime_ns))


def _check_there(name: str) -> None:
    if is_url(name):
        filesystem, path = filesystem_of(name)
        try:
            there = filesystem.isfile(path)
        except Exception as e:  # each storage library raises its own exceptions
            raise ImageError(f"{public_url(name)} cannot be read ({public_reason(e)})") from e
    else:
        there = Path(name).is_file()
    if not there:
        raise ImageError(f"no input at {public_url(name)}; expected a folder, a pattern, a list or a Parquet file")


def _opened_text(name: str) -> TextIO:
    if not is_url(name):
        return Path(name).open(encoding=LIST_ENCODING, errors="surrogateescape", newline="\n")
    import fsspec

    stream: TextIO = fsspec.open(name, "r", encoding=LIST_ENCODING, errors="surrogateescape", newline="\n").open()
    return stream


def _path_spans(paths: Iterable[str]) -> Iterator[Span]:
    iterator = iter(paths)
    while held := tuple(islice(iterator, SPAN)):
        yield PathSpan(held)
