"""Calls of a double of a GPU's driver: the thread's context, errors that are asked for, and misuse."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from condinst_deploy.runtime.cuda.driver import CudaError


class MisuseError(AssertionError):
    """The runtime did what CUDA does not allow, or what gives wrong results on a GPU."""


class StrictCalls:
    """What every call of the double goes through.

    Attributes:
        failure: name of the error that made the GPU useless; None: there was none.
        misuses: all that were found, because an error in `__del__` is lost.
        fail_next: name of an error that the next call has.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self.misuses: list[str] = []
        self.fail_next: str | None = None
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
            if self.fail_next is not None:
                error, self.fail_next = CudaError(name, self.fail_next), None
                if error.sticky:
                    self.failure = error.name
                raise error
            yield

    def _misuse(self, text: str) -> NoReturn:
        self.misuses.append(text)
        raise MisuseError(text)

    def _new_handle(self) -> int:
        self._handle += 1
        return self._handle
