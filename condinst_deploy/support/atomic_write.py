"""Write files atomically, also if the process crashes or the power fails."""

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

from condinst_deploy.errors import ConfigError, OutputError
from condinst_deploy.support.held_folders import check_held
from condinst_deploy.support.input_files import why_not_written
from condinst_deploy.support.new_folders import make_folder, remove_unused

TEMPORARY_NAME = re.compile(r"\..{1,200}\.[0-9a-f]{16}\.partial", re.DOTALL)
"""Names of temporary files and folders. Each is locked as long as its process lives."""

_open: dict[Path, int] = {}
"""Temporary files of this process and their open descriptors, for `remove_own`."""

_tidied: set[str] = set()
"""Folders in which this process has looked for leftovers."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, renamed to it when the block ends well and removed when it does not.

    The file exists and is empty when the block begins; the block writes it by its name. The name cannot be guessed,
    and a link in its place is never followed. The content is on the disk before the file gets its name. The first
    call for a folder removes what killed runs left there.

    Raises:
        OutputError: the folder cannot be made or the file cannot be written, or a folder that this run holds is gone
            (`held_folders`).
    """
    temporary, descriptor = None, -1
    try:
        check_held(path)
        _check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy_once(path.parent)
        try:
            temporary, descriptor = _created(path)
        except OSError as e:
            raise _unwritable(path, e) from e
        yield temporary
        check_held(path)
        if not _is_same(temporary, descriptor):
            raise OutputError(
                f"{temporary} was removed or replaced by another program while it was written; {path} stays as it is"
            )
        os.fsync(descriptor)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as e:
        if e.filename is not None and Path(e.filename) not in {temporary, path, *path.parents}:
            raise  # of another file that the block works with
        raise _unwritable(path, e) from e
    finally:
        if temporary is not None:
            _remove(temporary, descriptor)


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Keep other runs from writing the same file until the block ends, however it ends.

    Its folder is made, and removed again where the block left it empty.

    A temporary file beside `path`, which is locked as long as the process lives, says that a run is at work. On a file
    system without locks the block runs unprotected.

    Raises:
        ConfigError: another run writes the file.
        OutputError: the file cannot be written.
    """
    _check_replaceable(path)
    try:
        made = make_folder(path.parent)
        own, descriptor = _created(path)
    except (OSError, ValueError) as e:
        raise _unwritable(path, e) from e
    try:
        for other in path.parent.glob(f".{escape(name_start(path.name))}.*.partial"):
            if other not in _open and TEMPORARY_NAME.fullmatch(other.name) and _is_locked(other):
                raise ConfigError(f"another run is writing {path}; wait for it, or name another file with --out")
        yield
    finally:
        _remove(own, descriptor)
        remove_unused(made)


def _is_locked(path: Path) -> bool:
    """Return whether a living process holds a temporary file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # it is gone, or another user's
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        return e.errno == errno.EWOULDBLOCK
    finally:
        os.close(descriptor)
    return False


def check_writable(path: Path) -> None:
    """Check before the work that a file can be written to `path`; nothing is left behind, no created folders either.

    Raises:
        OutputError: it cannot.
    """
    _check_replaceable(path)
    folder = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    try:
        temporary, descriptor = _created(folder / path.name)
    except (OSError, ValueError) as e:
        raise _unwritable(path, e) from e
    _remove(temporary, descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove temporary files of killed runs of this user from a folder; those of living runs are locked, and stay."""
    with suppress(OSError):  # a folder that cannot be read is no reason to fail
        for path in folder.iterdir():
            if TEMPORARY_NAME.fullmatch(path.name):
                with suppress(OSError):
                    _remove_stale(path)


def remove_own() -> None:
    """Remove the temporary files of this process, which is about to end without leaving its blocks."""
    for path, descriptor in tuple(_open.items()):
        with suppress(OSError):
            _present(path, descriptor).unlink()


def _check_replaceable(path: Path) -> None:
    """Return whether nothing is at `path`, or a file that a new one may replace."""
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder; expected the name of a file to write")
        if path.exists() and not path.is_file():
            raise OutputError(f"{path} is a device or a pipe; expected the name of an ordinary file to write")
    except (OSError, ValueError) as e:
        raise _unwritable(path, e) from e


def _unwritable(path: Path, error: OSError | ValueError) -> OutputError:
    return OutputError(f"{path} cannot be written ({why_not_written(path.parent, error)}); choose another place")


def _created(path: Path) -> tuple[Path, int]:
    """A new temporary file beside `path`, open and locked."""
    while True:
        # only the start of the name: one of full length leaves no room for more
        temporary = path.parent / f".{name_start(path.name)}.{secrets.token_hex(8)}.partial"
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        _open[temporary] = descriptor
        with suppress(OSError):  # a file system without locks, on which leftovers stay
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # another run may hold it for a moment, see _remove_stale
        if _is_same(temporary, descriptor):
            return temporary, descriptor
        # another run took it for a leftover in the moment before it was locked
        del _open[temporary]
        os.close(descriptor)


def _remove(temporary: Path, descriptor: int) -> None:
    """Remove a temporary file, unless it has got its final name, and close it."""
    with suppress(OSError):
        _present(temporary, descriptor).unlink()
    _open.pop(temporary, None)
    os.close(descriptor)


def _present(temporary: Path, descriptor: int) -> Path:
    """Return where a temporary file is now: its folder may have been renamed."""
    if not os.path.lexists(temporary):
        with suppress(OSError):
            moved = Path(f"/proc/self/fd/{descriptor}").readlink()
            if moved.name == temporary.name and _is_same(moved, descriptor):
                return moved
    return temporary


def name_start(name: str) -> str:
    """Return the first characters of a name, short enough for a temporary name that begins with them."""
    return os.fsencode(name)[:100].decode("utf-8", "ignore") or "file"


def _is_same(path: Path, descriptor: int) -> bool:
    """Return whether the name still belongs to the open file."""
    try:
        named, opened = path.lstat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)


def _tidy_once(folder: Path) -> None:
    place = os.path.abspath(folder)  # noqa: PTH100  (a string is compared faster, and links do not matter)
    if place not in _tidied:
        _tidied.add(place)
        remove_leftovers(folder)


def _remove_stale(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        state = os.fstat(descriptor)
        if not stat.S_ISREG(state.st_mode) or state.st_uid != os.geteuid():
            return
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_same(path, descriptor):
            path.unlink()
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Bring the new name to the disk, on file systems that can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
