"""Folders of running commands: a command notices when its folder is removed, renamed or replaced.

Without this, later files would go to a new folder of the same name, and the earlier results would be missing without
an error.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from condinst_deploy.errors import OutputError

_held: dict[int, str] = {}
"""Open descriptor of a folder -> the absolute name that it had."""


@contextmanager
def held_folder(folder: Path) -> Iterator[int]:
    """Keep a folder open and watched until the block ends; yields its descriptor.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _held[descriptor] = os.path.abspath(folder)  # noqa: PTH100  (links stay: they are a part of the name)
        yield descriptor
    finally:
        _held.pop(descriptor, None)
        os.close(descriptor)


def check_held(path: Path) -> None:
    """See that the held folders that contain `path` are still at their names.

    Raises:
        OutputError: one was removed, renamed or replaced.
        OSError: the current folder is gone, and `path` is relative.
    """
    if not _held:
        return
    place = os.path.abspath(path)  # noqa: PTH100  (as above)
    for descriptor, folder in tuple(_held.items()):
        if (place == folder or place.startswith(folder.rstrip(os.sep) + os.sep)) and not _is_at(folder, descriptor):
            raise OutputError(
                f"{folder} was removed, renamed or replaced while results were written into it;"
                " leave the folder in place and run the command again"
            )


def _is_at(folder: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder), os.fstat(descriptor))  # noqa: PTH116  (of a descriptor, too)
    except OSError:
        return False
