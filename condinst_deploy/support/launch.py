"""Start and end of a command: signals are handled before heavy imports, and every failure is one line.

Nothing here imports more than the standard library, so that a signal in the first moments is one line, too.
"""

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, NoReturn, TextIO, cast

from condinst_deploy.shown_text import first_line, shown
from condinst_deploy.support import current_folder
from condinst_deploy.support.extras import missing_library
from condinst_deploy.support.signals import exit_status, listen, received, stop_listening

FAILED = 1

_subject = threading.local()
"""`name`: of the file that a thread reads; see `remarks_on`."""


def command(module: str) -> Callable[[], None]:
    """The entry point of a command: hears signals, then imports the module and calls its `main`."""

    def entry() -> None:
        def main() -> None:
            import_module(module).main()

        run(main)

    return entry


def run(main: Callable[[], object], extra: str | None = None) -> NoReturn:
    """Run a command to its exit status; nothing that a user, a disk or a signal can cause prints a traceback.

    Args:
        main: raises `SystemExit` with a status, or returns when all went well.
        extra: the one that brings all that the command needs.
    """
    if not _standard_streams_are_open():
        say("error: standard output is closed; direct it to a file, or to /dev/null")
        leave(FAILED)
    sys.stderr = cast("TextIO", _Lenient(sys.stderr))
    listen(_say_ended)
    threading.excepthook = _thread_failed
    show_remarks_of_libraries()
    status = 0
    try:
        main()
    except SystemExit as e:
        status = e.code if isinstance(e.code, int) else FAILED if e.code else 0
    except (KeyboardInterrupt, OSError, MemoryError) as e:
        status = FAILED
        say(reason_of(e))
        drop_unwritable_output()
    except Exception as e:
        status = FAILED
        if received() is not None:  # an error that a library made of the signal
            say(reason_of(KeyboardInterrupt()))
        elif reason := reason_outside_the_code(e, extra):
            say(f"error: {reason}")
        else:  # a defect: its traceback is what we need
            sys.excepthook(type(e), e, e.__traceback__)
    if received() is not None and status:
        status = exit_status()
    leave(status)


def reason_outside_the_code(error: Exception, extra: str | None = None) -> str | None:
    """One line on what the current folder, or a library that is missing or broken, caused; None: a defect."""
    if current_folder.is_gone():
        return current_folder.GONE
    if isinstance(error, ModuleNotFoundError):
        return missing_library(error, extra)
    if isinstance(error, ImportError) and not (error.name or "").startswith("condinst_"):
        return (
            f"{error.path or error.name or 'a library'} cannot be loaded ({first_line(error)}); it is damaged"
            " or of another version, or memory is limited: condinst-doctor tries every library by itself"
        )
    return None


class _Lenient:
    """Standard error, where a full disk or a reader that is gone does not end the work: it holds no results."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _standard_streams_are_open() -> bool:
    """Return whether results can be written at all; what the caller closed (`>&-`) leads to /dev/null from now on.

    Otherwise a file of ours would get the number of a standard stream, and what libraries print would go into it.
    """
    closed = []
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            closed.append(number)
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:  # Python gives no stream for what was closed when it started
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))
    return 1 not in closed


def show_remarks_of_libraries() -> None:
    """Show what libraries log and warn of in one line: they quote names from files as they are."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_OneLine())
    warnings.showwarning = _warned


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: object = None,
    line: str | None = None,
) -> None:
    name = getattr(_subject, "name", None)
    say(f"warning: {message}" if name is None else f"warning: {name}: {message}")


@contextmanager
def remarks_on(name: str) -> Iterator[None]:
    """Name the file that libraries read in the block, in this thread, where they warn of something."""
    before = getattr(_subject, "name", None)
    _subject.name = name
    try:
        yield
    finally:
        _subject.name = before


def _thread_failed(failure: threading.ExceptHookArgs) -> None:
    """A thread of a library ended: a full disk is one line there, too."""
    if isinstance(failure.exc_value, OSError | MemoryError):
        say(reason_of(failure.exc_value))
    elif received() is None:
        threading.__excepthook__(failure)


def is_stopped_import(error: BaseException | None) -> bool:
    """Return whether a library is missing only because a signal came: extension modules make an ImportError of it."""
    while received() is not None and error is not None:
        if isinstance(error, ImportError):
            return True
        error = error.__cause__ or error.__context__
    return False


def reason_of(error: BaseException) -> str:
    """One line on an error that comes from the system and not from this toolkit."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, MemoryError):
        return "error: the memory is not enough; try smaller images, a smaller batch or a machine with more"
    if isinstance(error, OSError) and current_folder.is_gone():
        return f"error: {current_folder.GONE}"
    if isinstance(error, OSError) and error.filename is not None:
        return f"error: {os.fsdecode(error.filename)}: {error.strerror or error}; check the place and its free space"
    return f"error: {getattr(error, 'strerror', None) or error}; check the disk, the current folder and the output"


def say(line: str) -> None:
    """One line on standard error, where that can be written."""
    with suppress(OSError, ValueError):
        print(shown(line), file=sys.stderr, flush=True)


def leave(status: int) -> NoReturn:
    """End the process with a status; text that standard output does not take makes the status 1."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed it
        status = status or FAILED
        _close_stdout()
    except (OSError, ValueError) as e:
        status = status or FAILED
        say(f"error: standard output cannot be written ({getattr(e, 'strerror', None) or e})")
        _close_stdout()
    stop_listening()
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]
    # a network that does not stop would keep the process, and a further signal in Python's own end change the status
    if status and (others or received() is not None):
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def drop_unwritable_output() -> None:
    """Redirect standard output to /dev/null if it takes no text, after an error was said: it is said once."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _close_stdout()


def _close_stdout() -> None:
    """Redirect standard output to /dev/null, so that the interpreter does not try to flush it again."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)


def _say_ended(number: int) -> None:
    """Before a process ends without leaving its blocks."""
    from condinst_deploy.support.atomic_write import remove_own

    remove_own()
    shown_cursor = b"\x1b[?25h" if os.isatty(2) else b""  # a progress bar hides it
    with suppress(OSError):
        os.write(2, shown_cursor + b"\nended at once; what was not finished is lost\n")
