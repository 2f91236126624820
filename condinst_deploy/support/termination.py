"""The handler of SIGTERM, which some libraries replace."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kept_sigterm() -> Iterator[None]:
    """Put the handler of SIGTERM back at the end of the block; in other threads than the main one do nothing."""
    if not _in_main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None: the previous handler was not set from Python
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
