"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import get_native_id

from condinst_deploy.errors import OutputError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well and removed when it does not.

    Raises:
        OutputError: the folder cannot be made or the file cannot be written.
    """
    # only the start of the name: one of full length leaves no room for more; threads may write side by side
    temporary = path.parent / f".{path.name[:50]}.{os.getpid()}.{get_native_id()}.partial"
    try:
        if path.is_dir():
            raise OutputError(f"{path} is a folder; expected the name of a file to write")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as e:
        if e.filename is not None and Path(e.filename) not in {temporary, path, *path.parents}:
            raise  # of another file that the block works with
        raise OutputError(f"{path} cannot be written ({e.strerror or e}); choose another place") from e
    finally:
        with suppress(OSError):
            temporary.unlink()
