"""Folders of outputs, on the local disk or behind any URL that fsspec knows."""

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from condinst_deploy.errors import ConfigError, OutputError
from condinst_deploy.serving.batch.object_lock import LOCK_TIMES, LockTimes, ObjectLock
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.folder_lock import locked_folder
from condinst_deploy.support.held_folders import check_held
from condinst_deploy.support.input_files import why_not_written
from condinst_deploy.support.remote_files import filesystem_of, is_url, local_path, public_reason, public_url

PART_PREFIX = "part-"
"""The names of parts begin with it."""

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"})
"""Protocols of which an upload becomes visible whole or not at all, so that no rename is needed."""


OnWait = Callable[[str], None]


class FileEnds(NamedTuple):
    """Both ends of a file; they overlap if it is short."""

    size: int  # bytes
    first: bytes
    last: bytes


class OutputFolder(ABC):
    """A folder that parts are written to."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def files(self) -> Iterator[tuple[str, int]]:
        """Names and sizes of the files in the folder; nothing if the folder does not exist.

        Raises:
            OutputError: the folder cannot be read.
        """

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None if there is no such file."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return True if there is a file of this name."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a file so that it is visible whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """

    def create(self, name: str, content: bytes) -> bool:
        """Write a new file; returns False, as far as the storage can tell, if there is one of this name.

        Raises:
            OutputError: it cannot be written.
        """
        self.write(name, content)
        return True

    @abstractmethod
    def ends(self, name: str, count: int) -> FileEnds | None:
        """Return the first and last `count` bytes of a file that may have been cut off.

        None if uploads are always whole.

        Raises:
            OutputError: the file cannot be read.
        """

    @abstractmethod
    def locked(self, on_wait: OnWait, times: LockTimes = LOCK_TIMES) -> AbstractContextManager[None]:
        """Keep other drivers away.

        Args:
            on_wait: called with a line before a wait for a driver that may be dead.
            times: of a lock behind a URL.

        Raises:
            ConfigError: another driver writes into the folder.
            OutputError: the folder cannot be used.
        """

    @abstractmethod
    def check_locked(self) -> None:
        """Check that no other driver has taken the lock, and that the folder is still there.

        Raises:
            ConfigError: another driver has the lock.
            OutputError: the folder was removed or replaced.
        """

    def withdraw(self, name: str) -> None:  # noqa: B027  (most storages do nothing)
        """Remove a file that this process wrote, where no other driver can have it; else it stays."""


class LocalFolder(OutputFolder):
    """A folder on a disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.path, self._exclusive = folder, False

    def files(self) -> Iterator[tuple[str, int]]:
        """Names and sizes of the files in the folder."""
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if entry.is_file():
                        yield entry.name, entry.stat().st_size
        except FileNotFoundError:
            return
        except OSError as e:
            reason = why_not_written(self.path, e)
            raise OutputError(f"{self.path} cannot be read ({reason}); choose another place with --out") from e

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None if there is none."""
        path = self.path / name
        try:
            if path.exists() and not path.is_file():
                raise OutputError(f"{path} is not an ordinary file; choose another place with --out")
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            raise self._unreadable(name, e) from e

    def exists(self, name: str) -> bool:
        """Return True if there is a file of this name."""
        return (self.path / name).is_file()

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that it is visible whole or not at all."""
        with atomic_path(self.path / name) as temporary:  # synced: a part that exists is done, after a power cut too
            temporary.write_bytes(content)

    def ends(self, name: str, count: int) -> FileEnds | None:
        """Return the first and last bytes of a file; None if uploads are always whole."""
        try:
            with (self.path / name).open("rb") as stream:
                first, size = stream.read(count), stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - count))
                return FileEnds(size, first, stream.read(count))
        except OSError as e:
            raise self._unreadable(name, e) from e

    @contextmanager
    def locked(self, on_wait: OnWait, times: LockTimes = LOCK_TIMES) -> Iterator[None]:
        """Lock the folder, and remove temporary files of processes that were killed.

        A file in it is locked beside the folder, because NFS, which clusters share, cannot lock folders. On a file
        system without locks the block runs unprotected.

        Raises:
            ConfigError: another driver writes into the folder.
            OutputError: the folder cannot be made or written, or was removed or replaced during the block.
        """
        import fcntl

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # without O_NONBLOCK a pipe in its place would be waited for
            flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
            stream = os.fdopen(os.open(self.path / ".lock", flags, 0o666), "rb")
        except OSError as e:
            reason = why_not_written(self.path, e)
            raise OutputError(
                f"{e.filename or self.path} cannot be written ({reason}); choose another place with --out"
            ) from e
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._exclusive = True
            except OSError as e:
                if e.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    raise ConfigError(f"another run writes into {self.path}; wait for it, or name another --out") from e
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise OutputError(f"{self.path} cannot be written (Permission denied); choose another place with --out")
            for leftover in self.path.glob(f".{PART_PREFIX}*.partial"):
                leftover.unlink(missing_ok=True)
            try:
                with locked_folder(self.path):  # against condinst-predict and the others, which lock the folder
                    yield
                    check_held(self.path)  # otherwise parts that were written before are lost without an error
            finally:
                self._exclusive = False

    def check_locked(self) -> None:
        """See that the folder was not removed or replaced; locks of disks are not lost."""
        check_held(self.path)

    def withdraw(self, name: str) -> None:
        """Remove a file that this process wrote, if the folder is locked."""
        if self._exclusive:
            with suppress(OSError):
                (self.path / name).unlink()

    def _unreadable(self, name: str, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path / name} cannot be read ({error.strerror or error}); choose another place with --out"
        )


class UrlFolder(OutputFolder):
    """A folder or a prefix behind a URL."""

    def __init__(self, url: str) -> None:
        super().__init__(public_url(url))
        self._filesystem, path = filesystem_of(url)
        self._path = path.rstrip("/")
        self._uploads_whole = url.split("://", 1)[0].lower() in OBJECT_STORES
        self._lock: ObjectLock | None = None

    def files(self) -> Iterator[tuple[str, int]]:
        """Names and sizes of the files in the folder."""
        with self._storage_errors():
            self._filesystem.invalidate_cache()
            try:
                entries = self._filesystem.ls(self._path, detail=True)
            except FileNotFoundError:
                return
        for entry in entries:
            if entry.get("type") == "file":
                yield str(entry["name"]).rsplit("/", 1)[-1], int(entry.get("size") or 0)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None if there is none."""
        with self._storage_errors():
            try:
                content: bytes = self._filesystem.cat_file(f"{self._path}/{name}")
            except FileNotFoundError:
                return None
            return content

    def exists(self, name: str) -> bool:
        """Return True if there is a file of this name."""
        with self._storage_errors():
            self._filesystem.invalidate_cache(self._path)
            return bool(self._filesystem.isfile(f"{self._path}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write a file so that it is visible whole or not at all."""
        path = f"{self._path}/{name}"
        with self._storage_errors():
            if self._uploads_whole:
                self._filesystem.pipe_file(path, content)
                return
            self._filesystem.makedirs(self._path, exist_ok=True)
            temporary = f"{self._path}/.{name}.{os.getpid()}.partial"
            self._filesystem.pipe_file(temporary, content)
            self._filesystem.mv(temporary, path)

    def create(self, name: str, content: bytes) -> bool:
        """Write a new file. Returns False if another process wrote it first and the object store reports that."""
        created = self.create_new(name, content)
        return super().create(name, content) if created is None else created

    def create_new(self, name: str, content: bytes) -> bool | None:
        """Write a new file; False if there is one, None (and nothing is written) if the storage cannot tell."""
        if not self._uploads_whole:
            return None
        try:
            self._filesystem.pipe_file(f"{self._path}/{name}", content, mode="create")
            return True
        except FileExistsError:
            return False
        except Exception:  # not every store and library has this, and its error is not distinct
            return None

    def remove(self, name: str) -> None:
        """Remove a file.

        Raises:
            OutputError: it cannot be removed.
        """
        with self._storage_errors():
            self._filesystem.rm_file(f"{self._path}/{name}")

    @contextmanager
    def locked(self, on_wait: OnWait, times: LockTimes = LOCK_TIMES) -> Iterator[None]:
        """Keep other drivers away by a lock object; see `object_lock`."""
        self._lock = ObjectLock(self, times=times)
        with self._lock.held(on_wait):
            yield

    def check_locked(self) -> None:
        """Check that no other driver has taken the lock."""
        if self._lock is not None:
            self._lock.check()

    def ends(self, name: str, count: int) -> FileEnds | None:
        """Return the first and last bytes of a file; None if uploads are always whole."""
        return None

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as e:  # each storage library raises its own exceptions
            raise OutputError(
                f"{self.name} cannot be used ({public_reason(e)}); choose another place with --out"
            ) from e


def output_folder(text: str) -> OutputFolder:
    """Return the folder of a path or a URL; it is made when the first file is written."""
    if is_url(text):
        return UrlFolder(text)
    folder = local_path(text)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder} is a file; expected the name of a folder")
    return LocalFolder(folder)
