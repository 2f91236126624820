"""Ctrl-C takes effect only between steps, never inside one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether the user pressed Ctrl-C during the block of `whole_steps`."""

    def __init__(self) -> None:
        self.wanted = False

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.wanted = True


@contextmanager
def whole_steps() -> Iterator[Interruption]:
    """Delay Ctrl-C until the end of the block; then raise `KeyboardInterrupt`.

    The block can read `Interruption.wanted` and stop early. Python runs signal handlers only in the main thread, and
    between two of its bytecode instructions: a library call that does not return to Python delays the handler. In
    other threads, which Ctrl-C does not interrupt, this does nothing.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = signal.signal(signal.SIGINT, interruption._note)
    try:
        yield interruption
    finally:
        # None: the previous handler was not set from Python
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if interruption.wanted:
        raise KeyboardInterrupt
