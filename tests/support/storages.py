"""Storages behind URLs for tests: fsspec's file system in memory, and one that fails as real ones do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


@contextmanager
def empty_memory() -> Iterator[Any]:
    """fsspec's file system in memory, `memory://`, empty before and after."""
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


class FailingStorage(MemoryFileSystem):  # type: ignore[misc]
    """`failing://`: the storage in memory, with an error or with less content behind some names."""

    protocol = "failing"
    reads: list[str] = []  # noqa: RUF012  (one for all: fsspec makes the file systems)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("failing://", "memory://")))

    def info(self, path: str, **options: Any) -> Any:
        _fail(path)
        return super().info(path, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        _fail(path)
        return super().ls(path, detail=detail, **options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        self.reads.append(path)
        _fail(path)
        content: bytes = super().cat_file(path, start=start, end=end, **options)
        return content[: len(content) // 2] if "truncated" in path else content


def _fail(path: str) -> None:
    if "forbidden" in path:
        raise PermissionError("Access Denied\nRequestId: 1")
    if "no-such-bucket" in path:
        raise OSError("The specified bucket does not exist")
    if "reset" in path:
        raise ConnectionResetError("the connection was reset")


@contextmanager
def failing_storage() -> Iterator[Any]:
    """Register `failing://`; its files are those of `memory://`."""
    fsspec.register_implementation("failing", FailingStorage, clobber=True)
    with empty_memory() as memory:
        FailingStorage.reads.clear()
        yield memory
