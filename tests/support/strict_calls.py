"""Calls of a double of a GPU's driver: the thread's context, errors that are asked for, and misuse."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from condinst_deploy.runtime.cuda.driver import STICKY, CudaError


class MisuseError(AssertionError):
    """The runtime did what CUDA does not allow, or what gives wrong results on a GPU."""


class StrictCalls:
    """What every call of the double goes through.

    Attributes:
        failure: name of the error that made the GPU useless; None: there was none.
        misuses: all that were found, because an error in `__del__` is lost.
        fail_next: name of an error that the next call has.
        calls: name of a call -> how often it was made.
        refusals: name of a call and its number, from 1 -> name of the error that it has.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self.misuses: list[str] = []
        self.fail_next: str | None = None
        self.calls: Counter[str] = Counter()
        self.refusals: dict[tuple[str, int], str] = {}
        self._lock = threading.RLock()
        self._current = threading.local()
        self._handle = 1000

    def push(self) -> None:
        self._current.depth = getattr(self._current, "depth", 0) + 1

    def pop(self) -> None:
        if getattr(self._current, "depth", 0) < 1:
            self._misuse("a context is popped that was not pushed")
        self._current.depth -= 1

    @contextmanager
    def checked_call(self, name: str) -> Iterator[None]:
        with self._lock:
            if getattr(self._current, "depth", 0) < 1:
                self._misuse(f"{name} in a thread where the GPU is not current")
            if self.failure is not None:
                raise CudaError(name, self.failure)
            self.calls[name] += 1
            refused = self.refusals.pop((name, self.calls[name]), self.fail_next)
            self.fail_next = None
            if refused is not None:
                if refused in STICKY:
                    self.failure = refused
                raise CudaError(name, refused)  # a variable of this frame would keep all frames with the error
            yield

    def _misuse(self, text: str) -> NoReturn:
        self.misuses.append(text)
        raise MisuseError(text)

    def _new_handle(self) -> int:
        self._handle += 1
        return self._handle
