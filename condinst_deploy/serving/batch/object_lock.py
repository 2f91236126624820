"""The lock of an output folder behind a URL: an object that its driver rewrites regularly.

Object stores have no locks, and the machines' clocks differ. So a command watches the lock of another one for a while.
If the lock changes, the other command is alive. No time is compared between machines.

* A driver that finds no lock writes one. Where the store can create an object only if it is new, that decides between
  two drivers. Elsewhere the driver waits, and reads which of the two the store kept. A store that ignores the condition
  is noticed at the first heartbeat.
* A driver that finds a lock watches it. If it changes, its owner lives, and the run is refused. If it stays the same
  for `LockTimes.stale` seconds, its owner is dead, and the lock is taken over.
* Before it writes its lock again, the owner reads it. If another driver has taken it, the owner gives up. A driver that
  was stopped for longer than that and goes on learns of it there.

If writes are so slow that two drivers take the lock at the same time, one of them gives up at its next heartbeat: the
one that wrote last never reads another owner. Until then both may do the same shards, and write the same parts.
"""

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, Protocol

from condinst_deploy.errors import ConfigError, OutputError
from condinst_deploy.shown_text import shown

FILE = ".lock"


class LockTimes(NamedTuple):
    """Seconds between what a driver does; drivers of one folder need the same."""

    beat: float = 5.0  # between two writes of the owner
    stale: float = 30.0  # a lock that does not change for so long belongs to a dead driver
    poll: float = 1.0  # between two reads of a driver that watches
    settle: float = 2.0  # before a driver reads whose lock the store kept; longer than a write of some bytes takes


LOCK_TIMES = LockTimes()


class Storage(Protocol):
    """The part of a storage that a lock needs."""

    name: str

    def read(self, name: str) -> bytes | None:
        """Return the content of an object, None if there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write an object."""

    def create_new(self, name: str, content: bytes) -> bool | None:
        """Write a new object; False if there is one, None (and nothing is written) if the storage cannot tell."""

    def remove(self, name: str) -> None:
        """Remove an object."""


class ObjectLock:
    """A lock in a storage; use it with `held`."""

    def __init__(
        self,
        storage: Storage,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        times: LockTimes = LOCK_TIMES,
    ) -> None:
        self._storage, self._clock, self._sleep, self._times = storage, clock, sleep, times
        self._id = secrets.token_hex(16)
        self._beats, self._lost = 0, False

    @contextmanager
    def held(self, on_wait: Callable[[str], None]) -> Iterator[None]:
        """Hold the lock for the block; a thread writes it again and again.

        Args:
            on_wait: called with a line before a wait for a driver that may be dead.

        Raises:
            ConfigError: another driver holds it.
            OutputError: the storage cannot be used.
        """
        self.acquire(on_wait)
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self._times.beat):
                self.beat()

        thread = threading.Thread(target=beat, name="condinst-lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self.release()

    def acquire(self, on_wait: Callable[[str], None]) -> None:
        """Take the lock.

        Raises:
            ConfigError: another driver holds it.
            OutputError: the storage cannot be used.
        """
        while True:
            found = self._storage.read(FILE)
            if found is None:
                if self._created():
                    return
                self._sleep(self._times.poll)
            elif self._is_left(found, on_wait) and self._written_and_kept():
                return

    def beat(self) -> None:
        """Write the lock again, unless another driver has it; if somebody removed it, too.

        A storage that fails is tried again at the next beat.
        """
        with suppress(OutputError):
            found = self._storage.read(FILE)
            self._lost = self._lost or not (found is None or self._is_ours(found))
            if not self._lost:
                self._write()

    def check(self) -> None:
        """Check that no other driver has taken the lock.

        Raises:
            ConfigError: one has, because this process did not run for `LockTimes.stale` seconds.
        """
        if self._lost:
            raise ConfigError(
                f"another run has taken over {self._storage.name}, because this one was silent for"
                f" {self._times.stale:g} s; wait for it, or name another --out"
            )

    def release(self) -> None:
        """Remove the lock if it is ours. A lock that cannot be removed is taken over by the next run."""
        with suppress(OutputError):
            if not self._lost and self._is_ours(self._storage.read(FILE)):
                self._storage.remove(FILE)

    def _created(self) -> bool:
        """Write the lock where there was none; returns False if another driver was quicker."""
        created = self._storage.create_new(FILE, self._next_content())
        return self._written_and_kept() if created is None else created

    def _written_and_kept(self) -> bool:
        """Write the lock; returns False if another driver, which saw what this one saw, wrote later."""
        self._write()
        self._sleep(self._times.settle)
        return self._is_ours(self._storage.read(FILE))

    def _is_left(self, found: bytes, on_wait: Callable[[str], None]) -> bool:
        """Watch the lock of another driver; returns True if its owner is dead, False if the lock is gone.

        Raises:
            ConfigError: its owner lives.
        """
        owner = shown(found.decode(errors="replace").partition(" ")[2].rpartition(" ")[0] or "unknown", 80)
        on_wait(
            f"{self._storage.name} has the lock of another run (process {owner}); waiting up to {self._times.stale:g} s"
            " to see whether it lives"
        )
        since = self._clock()
        while self._clock() - since < self._times.stale:
            self._sleep(self._times.poll)
            now = self._storage.read(FILE)
            if now is None:
                return False
            if now != found:
                raise ConfigError(
                    f"another run (process {owner}) writes into {self._storage.name}; wait for it, or name another"
                    " --out"
                )
        return True

    def _write(self) -> None:
        self._storage.write(FILE, self._next_content())

    def _next_content(self) -> bytes:
        self._beats += 1
        return f"{self._id} {os.getpid()}@{socket.gethostname()} {self._beats}\n".encode()

    def _is_ours(self, content: bytes | None) -> bool:
        return content is not None and content.startswith(self._id.encode())
