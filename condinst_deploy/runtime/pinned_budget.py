"""How much of the host's memory prepared images may pin."""

from threading import Lock

MOST_PINNED = 1 << 30
"""Bytes of pinned memory. The system cannot move them, so they must stay a small part of a machine's memory."""


class PinnedBudget:
    """Bytes that images which wait for their batch may pin. Threads may share it."""

    def __init__(self, limit: int = MOST_PINNED) -> None:
        self._limit, self._used, self._lock = limit, 0, Lock()

    @property
    def used(self) -> int:
        """Bytes of all shares that live."""
        return self._used

    def share(self, size: int) -> "PinnedShare | None":
        """Return a share of the budget; None if there is not so much left."""
        with self._lock:
            if self._used + size > self._limit:
                return None
            self._used += size
        return PinnedShare(self, size)

    def give_back(self, size: int) -> None:
        """Take a share back; called by `PinnedShare`."""
        with self._lock:
            self._used -= size


class PinnedShare:
    """A part of a budget, for as long as this object lives."""

    def __init__(self, budget: PinnedBudget, size: int) -> None:
        self._budget, self._size = budget, size

    def __del__(self) -> None:
        self._budget.give_back(self._size)
