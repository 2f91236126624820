"""Ctrl-C and SIGTERM: a job stops between two whole steps, and a second signal ends it immediately.

A command calls `listen` before it imports anything large. From then on both signals raise `Stopped`, a
`KeyboardInterrupt`, in the main thread. Python raises it only between two of its own instructions. A second thread
hears the signals while the main thread is inside a library, and stops the networks that run (`cancellable`).

Python drops an exception in a callback of a weak reference or in `__del__`, and inside its import system an exception
can leave a lock held for which other threads wait for ever. In both cases the signal takes effect a moment later.
"""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)

PREEMPTION = signal.SIGUSR1
"""Signals that schedulers send some time before a job ends; `listen_for_preemption` handles them."""

PATIENCE = 10.0
"""Seconds that a network has to stop after a signal while the main thread is inside a library."""

AGAIN = 0.05
"""Seconds after which a signal that had no effect yet is tried again."""

MOST_TRIES = 100
"""Times that a signal inside the import system is tried again, before it takes effect there."""

ONE_SIGNAL = 0.2
"""Seconds in which several signals count as one: `timeout` signals a process, and then its group."""


class Stopped(KeyboardInterrupt):
    """The process was asked to stop.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Interruption:
    """Return whether a signal arrived in the block of `whole_steps`."""

    def __init__(self) -> None:
        self.wanted = False


class _State:
    """State of the process, to which signals belong."""

    def __init__(self) -> None:
        self.listening = False
        self.numbers: tuple[signal.Signals, ...] = STOPPING  # signals that ask this process to stop
        self.received: int | None = None  # the first signal
        self.raised = False  # whether the main thread knows
        self.again = False  # whether the handler ran and the main thread still does not know
        self.tries = 0
        self.running: dict[int, tuple[Callable[[], None], float]] = {}  # a network's thread -> what stops it, its start
        self.at_end: Callable[[int], None] = lambda number: None


_state = _State()


def listen(at_end: Callable[[int], None]) -> None:
    """Hear signals from now on. For the main thread of a command; further calls do nothing.

    Args:
        at_end: called with the signal's number, in another thread, before the process ends at once.
    """
    if _state.listening or threading.current_thread() is not threading.main_thread():
        return
    _state.listening, _state.at_end = True, at_end
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # shells let background jobs ignore Ctrl-C
            signal.signal(number, _raise)
    signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    _catch_dropped()
    os.register_at_fork(after_in_child=lambda: _forget(pythons))
    threading.Thread(target=_hear, args=(ours, pythons), name="condinst-signals", daemon=True).start()


def listen_for_preemption() -> None:
    """Let `PREEMPTION` stop this process as SIGTERM does, instead of ending it at once.

    For the main thread, after `listen`; otherwise this does nothing.
    """
    if _state.listening and threading.current_thread() is threading.main_thread():
        _state.numbers = (*STOPPING, PREEMPTION)
        signal.signal(PREEMPTION, _raise)


def stop_listening() -> None:
    """Let a signal end the process silently: its work is done, and only the interpreter's end is left."""
    if _state.listening:
        _state.again = False
        signal.set_wakeup_fd(-1)
        for number in _state.numbers:
            if signal.getsignal(number) is _raise:
                signal.signal(number, signal.SIG_DFL)


def ignore_signals() -> None:
    """Leave signals to the parent of this process, which decides when it ends."""
    for number in (*STOPPING, PREEMPTION):
        signal.signal(number, signal.SIG_IGN)


def received() -> int | None:
    """The signal that asked this process to stop; None: none did."""
    return _state.received


def exit_status(error: BaseException | None = None) -> int:
    """128 and the signal's number, as shells have it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (error.number if isinstance(error, Stopped) else _state.received or signal.SIGINT)


@contextmanager
def whole_steps() -> Iterator[Interruption]:
    """Delay signals until the end of the block, and then let them take effect.

    The block can read `Interruption.wanted` and stop early. Python runs signal handlers only in the main thread, and
    between two of its bytecode instructions: a library call that does not return to Python delays the handler. In
    other threads, which signals do not interrupt, this does nothing.

    The handler of SIGCHLD is delayed, too: PyTorch's raises an error when a process of a data loader was killed.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    came: list[tuple[int, FrameType | None]] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append((number, frame))
        interruption.wanted |= number in _state.numbers

    before: dict[int, Any] = {}
    try:
        for number in (*_state.numbers, signal.SIGCHLD):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, note)
        yield interruption
    finally:
        for kept, handler in before.items():
            signal.signal(kept, handler)
    for arrived, frame in came:  # where the signal came does not matter any more
        before[arrived](arrived, None if before[arrived] is _raise else frame)


@contextmanager
def cancellable(stop: Callable[[], None]) -> Iterator[None]:
    """Have `stop` called, in another thread, when a signal comes or `cancel` is called during the block.

    Args:
        stop: makes a network's run in this thread end soon; it may be called more than once.
    """
    thread = threading.get_ident()
    _state.running[thread] = stop, time.monotonic()
    try:
        if _state.received is not None:
            stop()
        yield
    finally:
        _state.running.pop(thread, None)


def cancel(thread: int | None) -> None:
    """Stop the network that runs in a thread, if one does."""
    running = _state.running.get(thread or 0)
    if running is not None:
        running[0]()


def _raise(number: int, frame: FrameType | None) -> None:
    _state.received = _state.received or number
    if _state.raised:  # a second one, for what the first one began is under way
        return
    if _imports(frame) and _state.tries < MOST_TRIES:
        _state.again, _state.tries = True, _state.tries + 1
        return
    _state.raised = True
    raise Stopped(number)


def _imports(frame: FrameType | None) -> bool:
    """Return whether the main thread is in the code of Python's import system itself, not in a module's."""
    return frame is not None and frame.f_code.co_filename.startswith("<frozen importlib.")


def _catch_dropped() -> None:
    """Try again a `Stopped` that Python drops because it was raised where nobody can catch it."""
    others = sys.unraisablehook

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if isinstance(dropped.exc_value, Stopped):
            _state.raised, _state.again = False, True
        else:
            others(dropped)

    sys.unraisablehook = hook


def _hear(ours: socket.socket, _pythons: socket.socket) -> None:
    """The thread that hears signals; it holds both sockets, so that they stay open."""
    first, sent, main = 0.0, 0, threading.main_thread().ident
    assert main is not None  # it runs
    while True:
        ours.settimeout(AGAIN if first else None)
        try:
            numbers = [number for number in ours.recv(64) if number in _state.numbers]
        except TimeoutError:
            number = _state.received or signal.SIGTERM
            if not _state.raised and _waited(first) > PATIENCE:
                _end(number)
            if _state.again:
                _state.again, sent = False, sent + 1
                signal.pthread_kill(main, number)  # a true one, which ends a wait; it is heard here, too
            continue
        own = min(sent, len(numbers))
        numbers, sent = numbers[own:], sent - own
        if first and numbers and time.monotonic() - first > ONE_SIGNAL:
            _end(_state.received or numbers[0])
        if numbers and not first:
            first = time.monotonic()
            _state.received = _state.received or numbers[0]
            for stop, _start in tuple(_state.running.values()):
                with suppress(Exception):  # whatever a library raises, the other networks have to stop, too
                    stop()


def _waited(first: float) -> float:
    """Seconds that a network has run on after the first signal; 0: none runs."""
    starts = [start for _, start in tuple(_state.running.values())]
    return time.monotonic() - max(first, min(starts)) if starts else 0.0


def _end(number: int) -> None:
    """End the process here and now."""
    try:
        _state.at_end(number)
    finally:
        os._exit(128 + number)


def _forget(pythons: socket.socket) -> None:
    """Restore Python's own signal handling in a forked child; the parent's thread gets no signals of the child."""
    with suppress(ValueError):  # forked in another thread, which may not change this
        signal.set_wakeup_fd(-1)
        for number in _state.numbers:
            if signal.getsignal(number) is _raise:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    pythons.close()
    _state.listening, _state.received, _state.raised, _state.again, _state.tries = False, None, False, False, 0
    _state.running.clear()


@contextmanager
def unchanged_handler(number: signal.Signals) -> Iterator[None]:
    """Put the handler of a signal back at the end of the block, if a library replaced it."""
    before = signal.getsignal(number)
    yield
    if signal.getsignal(number) is not before:  # None: the previous handler was not set from Python
        signal.signal(number, signal.SIG_DFL if before is None else before)


@contextmanager
def kept_sigterm() -> Iterator[None]:
    """Put the handler of SIGTERM back at the end of the block, for libraries that replace it.

    A library's handler may end the process with `sys.exit`: after a signal that is `Stopped` here. In other threads
    than the main one this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as e:
        if _state.received is None:
            raise
        _state.raised = True
        raise Stopped(_state.received) from e
    finally:
        # None: the previous handler was not set from Python
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
