"""Slots of an engine, handed to one thread at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Condition
from typing import Generic, Protocol, TypeVar

from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.backend import closed_error


class Closable(Protocol):
    """Limits of the pool."""

    def close(self) -> None:
        """Release it."""


Kept = TypeVar("Kept", bound=Closable)


class SlotPool(Generic[Kept]):
    """Makes up to a number of slots when they are needed. A thread waits while all of them are in use.

    A thread has a slot only while it gives work to the GPU. The slot used last comes first, so graphs of one slot serve
    all threads.
    """

    def __init__(self, make: Callable[[], Kept], most: int) -> None:
        self._make, self._most = make, most
        self._idle: list[Kept] = []
        self._count = 0  # idle, in use, and being made
        self._closed = False
        self._changed = Condition()

    @contextmanager
    def slot(self) -> Iterator[Kept]:
        """A slot for the length of the block; one that an error went through is not used again.

        Raises:
            BackendError: the pool was closed.
        """
        slot = self._taken()
        try:
            yield slot
        except BaseException:
            with suppress(
                BackendError
            ):  # after a CUDA error the release fails, too; the first error is the one to show
                slot.close()
            self._gone()
            raise
        with self._changed:
            if not self._closed:
                self._idle.append(slot)
                self._changed.notify()
                return
        slot.close()
        self._gone()

    def idle(self) -> list[Kept]:
        """Return the slots that are not in use."""
        with self._changed:
            return list(self._idle)

    def close(self) -> None:
        """Release the idle slots now, and those in use when their blocks end. It waits for the latter."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            idle, self._idle = self._idle, []
        for slot in idle:
            slot.close()
            self._gone()
        with self._changed:
            self._changed.wait_for(lambda: self._count == 0)

    def _taken(self) -> Kept:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._idle or self._count < self._most)
            if self._closed:
                raise closed_error()
            if self._idle:
                return self._idle.pop()
            self._count += 1
        try:
            return self._make()
        except BaseException:
            self._gone()
            raise

    def _gone(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify_all()
