"""One run at a time in a folder of results."""

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from condinst_deploy.errors import ConfigError, OutputError
from condinst_deploy.support.held_folders import held_folder
from condinst_deploy.support.input_files import why_not_written
from condinst_deploy.support.new_folders import make_folder, remove_unused


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Make the folder and keep other runs out of it until the block ends, however it ends.

    The folder itself is locked: nothing is left in it, and the system unlocks it when the process dies. On a file
    system without locks the block runs unprotected. A file that is written into the folder after it was removed or
    replaced is an error; see `held_folders`. A new folder that is empty when the block ends is removed, and so are the
    empty folders above it that were made for it.

    Raises:
        ConfigError: another run is at work in it.
        OutputError: it cannot be made or opened.
    """
    with ExitStack() as stack:
        try:
            made = make_folder(folder)
            descriptor = stack.enter_context(held_folder(folder))
            if made:
                stack.enter_context(_removed_if_unused(made, descriptor))
        except (OSError, ValueError) as e:
            reason = why_not_written(folder, e)
            raise OutputError(f"the folder {folder} cannot be written ({reason}); choose another place") from e
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            if e.errno == errno.EWOULDBLOCK:
                raise ConfigError(
                    f"another run is writing into {folder}; wait for it, or name another folder with --out"
                ) from e
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"the folder {folder} cannot be written (Permission denied); choose another place")
        yield


@contextmanager
def _removed_if_unused(made: Sequence[Path], descriptor: int) -> Iterator[None]:
    """When the block ends, remove a folder and those above it, unless something is in it or another one has its name.

    Args:
        made: the folder, then those above it, from the inside out.
        descriptor: of the folder.
    """
    try:
        yield
    finally:
        with suppress(OSError):
            if os.path.samestat(os.stat(descriptor), made[0].lstat()):
                remove_unused(made)
