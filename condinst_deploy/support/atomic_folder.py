"""Write folders atomically."""

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from condinst_deploy.errors import OutputError
from condinst_deploy.support.atomic_write import TEMPORARY_NAME, name_start
from condinst_deploy.support.input_files import why_not_written


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path`, renamed to it when the block ends well and removed when it does not.

    Raises:
        OutputError: there is something at `path` that is no empty folder, or it is the current folder, or it cannot be
            written.
    """
    try:
        path = Path(os.path.abspath(path))  # noqa: PTH100  (without links; "." has a name then)
        _check_free(path)
        with temporary_folder(path) as temporary:
            yield temporary
            with suppress(FileNotFoundError):
                path.rmdir()
            temporary.rename(path)
    except OSError as e:
        reason = why_not_written(path.parent, e)
        raise OutputError(f"{path} cannot be written ({reason}); choose another place") from e


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path`; when the block ends it is removed, unless the block renamed it.

    What killed runs left of the same folder is removed first.

    Raises:
        OSError: it cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    temporary = path.parent / f"{_beginning(path)}{secrets.token_hex(8)}.partial"
    temporary.mkdir()
    descriptor = -1
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with suppress(OSError):  # a file system without locks, on which leftovers may be taken for others' work
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if descriptor >= 0:
            os.close(descriptor)


def _check_free(path: Path) -> None:
    if os.path.lexists(path) and (not path.is_dir() or any(path.iterdir())):
        raise OutputError(f"{path} exists and is not an empty folder; name a new one, or remove it first")
    if path.exists() and path.samefile(Path.cwd()):
        raise OutputError(f"{path} is the current folder, which cannot be replaced; name a folder in it")


def _beginning(path: Path) -> str:
    return f".{name_start(path.name)}."


def _remove_leftovers(path: Path) -> None:
    for other in path.parent.glob(f"{escape(_beginning(path))}*.partial"):
        if TEMPORARY_NAME.fullmatch(other.name):
            with suppress(OSError):  # it is locked, of another user, or gone
                _remove_stale(other)


def _remove_stale(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_uid == os.geteuid():
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
