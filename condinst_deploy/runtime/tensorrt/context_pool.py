"""Contexts of an engine: each runs one shape for one caller at a time; idle ones are kept for the next."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Generic, Protocol, TypeVar

from condinst_deploy.errors import BackendError


class Closable(Protocol):
    """What the pool keeps."""

    def close(self) -> None:
        """Release it."""


Key = TypeVar("Key", bound=Hashable)
Context = TypeVar("Context", bound=Closable)


class ContextPool(Generic[Key, Context]):
    """Hands out contexts by key; threads that ask for the same key at once get different ones."""

    def __init__(self, make: Callable[[Key], Context], keep: int) -> None:
        """`keep` idle contexts at most stay open, the ones used last."""
        self._make, self._keep = make, keep
        self._idle: list[tuple[Key, Context]] = []  # used last at the end
        self._lock = Lock()
        self._closed = False

    @contextmanager
    def context(self, key: Key) -> Iterator[Context]:
        """A context of this key for the length of the block; one that an error went through is not used again.

        Raises:
            BackendError: the pool was closed.
        """
        context = self._taken(key)
        try:
            yield context
        except BaseException:
            with suppress(RuntimeError):  # after a CUDA error the stream fails, too; the first error is the one to show
                context.close()
            raise
        self._put_back(key, context)

    @property
    def idle(self) -> list[Context]:
        """The contexts that wait for a caller, used last at the end."""
        with self._lock:
            return [context for _, context in self._idle]

    def close(self) -> None:
        """Release the idle contexts; those in use are released when their blocks end."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, context in idle:
            context.close()

    def _taken(self, key: Key) -> Context:
        with self._lock:
            if self._closed:
                raise BackendError("this model was closed; load it again")
            for i in reversed(range(len(self._idle))):
                if self._idle[i][0] == key:
                    return self._idle.pop(i)[1]
        return self._make(key)

    def _put_back(self, key: Key, context: Context) -> None:
        surplus = []
        with self._lock:
            self._idle.append((key, context))
            while len(self._idle) > (0 if self._closed else self._keep):
                surplus.append(self._idle.pop(0)[1])
        for old in surplus:
            old.close()
