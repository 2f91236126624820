"""Checks of paths that a user names: reading a pipe waits, a device may have no end, a link may lead to itself."""

import errno
import os
import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


class NotAFileError(OSError):
    """What was named is a pipe, a socket, a device or a folder."""

    def __str__(self) -> str:
        return str(self.strerror)  # messages name the file themselves


def check_ordinary(path: Path) -> None:
    """Check that a path names an ordinary file, so that reading it ends.

    Raises:
        NotAFileError: it is something else; its `strerror` says what.
        OSError: nothing is there, or it cannot be looked up.
        ValueError: no file can have the name.
    """
    kind = special_kind(path.stat().st_mode)
    if kind is not None:
        raise NotAFileError(errno.EINVAL, f"it is {kind} and not an ordinary file", str(path))


def is_there(path: Path) -> bool:
    """Return whether an ordinary file is there; False for nothing, and for a name that no file can have.

    Raises:
        NotAFileError: something else is there.
        OSError: it cannot be looked up.
    """
    try:
        check_ordinary(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return True


def is_folder(path: str | Path) -> bool:
    """Return whether a folder is there; False, too, for a name that no file can have, where `Path.is_dir` raises."""
    return os.path.isdir(path)  # noqa: PTH112


def special_kind(mode: int) -> str | None:
    """What a file of a mode (`st_mode`) is called if it is no ordinary file; None: it is one."""
    if stat.S_ISREG(mode):
        return None
    return next((name for is_kind, name in _KINDS if is_kind(mode)), "something unknown")


def why_not_written(folder: Path, error: OSError | ValueError) -> str:
    """Say why nothing can be written into a folder: what stands in its place, or the system's reason."""
    for place in (folder, *folder.parents):
        try:
            mode = place.stat().st_mode
        except (OSError, ValueError):
            continue
        if stat.S_ISDIR(mode):
            break
        return f"{place} is {special_kind(mode) or 'a file'}, not a folder"
    return getattr(error, "strerror", None) or str(error)


def real_path(path: Path) -> Path:
    """The absolute path without links; of a link that leads to itself, or nowhere, as far as it can be followed.

    `Path.resolve` raises a RuntimeError for a link to itself.
    """
    return Path(os.path.realpath(path))


def read_file(path: Path) -> bytes:
    """The content of an ordinary file.

    Raises:
        OSError, ValueError: as `check_ordinary`, or it cannot be read.
    """
    check_ordinary(path)
    # what took the file's place since then is not waited for
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read()


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """The text of an ordinary file.

    Raises:
        OSError, ValueError: as `read_file`; `UnicodeDecodeError` is a ValueError.
    """
    return read_file(path).decode(encoding)
