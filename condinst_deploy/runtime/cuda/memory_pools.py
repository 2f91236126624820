"""Memory that is used again: pools of blocks, and arrays in them."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from threading import Lock
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.cuda.driver import OUT_OF_MEMORY, CudaError

SMALLEST = 512
"""Bytes of a block; addresses of larger ones are multiples of it, too."""

STEPS = 8
"""Sizes of blocks between a power of two and the next: at most an eighth of a block is not used."""

MOST_IDLE = 64
"""Blocks of one size that wait for their last use before the host waits for the oldest."""


class Done(Protocol):
    """An event, as pools use it."""

    def done(self) -> bool:
        """True if the work before it is finished."""

    def synchronize(self) -> None:
        """Wait for the work before it."""


class Waiting(Protocol):
    """A stream, as pools use it."""

    def wait(self, event: Any) -> None:
        """Let later work wait for an event."""


@dataclass(eq=False)
class Memory:
    """Memory that a pool has of the driver, and the last uses of it."""

    address: int
    size: int
    uses: list[Done] = field(default_factory=list)

    def wait(self) -> None:
        """Wait for the last uses."""
        for use in self.uses:
            use.synchronize()


class Block:
    """Memory that its pool hands out again when nothing refers to this object and its last use is over."""

    def __init__(self, pool: "MemoryPool", memory: Memory) -> None:
        self.address, self.size = memory.address, memory.size
        self._pool, self._memory = pool, memory
        self._noted = False  # whether uses of this block, and not of the one before it, are noted

    def used_until(self, event: Done) -> None:
        """Note that work before this event reads or writes the memory."""
        uses = self._memory.uses if self._noted else []  # this work waits for the uses before it
        self._memory.uses = [use for use in uses if use is not event] + [event]
        self._noted = True

    def array(self, shape: tuple[int, ...], dtype: str, offset: int = 0) -> "GpuArray":
        """Return an array in this block, `offset` bytes from its beginning."""
        array = GpuArray(self, self.address + offset, shape, np.dtype(dtype))
        if offset + array.nbytes > self.size:
            raise ValueError(f"{array.nbytes} bytes at {offset} leave a block of {self.size}")
        return array

    def __del__(self) -> None:
        self._pool.give_back(self._memory)


@dataclass(frozen=True)
class GpuArray:
    """Values in memory of a GPU, rows contiguous."""

    owner: Any  # keeps the memory: a `Block`, or another library's tensor
    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @staticmethod
    def size_of(shape: tuple[int, ...], dtype: str) -> int:
        """Bytes of an array."""
        return prod(shape) * np.dtype(dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> "GpuArray":
        """Return a part of the first dimension."""
        size = prod(self.shape[1:]) * self.dtype.itemsize
        return GpuArray(self.owner, self.address + start * size, (stop - start, *self.shape[1:]), self.dtype)


class MemoryPool:
    """Blocks of sizes that differ by an eighth. Threads may share it."""

    def __init__(
        self,
        allocate: Callable[[int], int],
        free: Callable[[int], None],
        limit: int | None = None,
        substitute: Callable[[int], int] | None = None,
    ) -> None:
        """Take memory from these functions.

        Args:
            allocate: size in bytes -> address.
            free: releases it.
            limit: bytes above which idle memory is waited for and used again, or freed, before there is more. The pool
                exceeds it only by blocks that are in use all at once. None: no limit.
            substitute: size in bytes -> address of memory of another kind, where `allocate` gives none. None: that is
                an error.
        """
        self._allocate, self._free, self._limit, self._substitute = allocate, free, limit, substitute
        self._idle: dict[int, deque[Memory]] = {}  # by size, the oldest first
        # Blocks that are garbage together with their events are finalised in any order. These references keep the
        # events, which the next owner of the memory waits for.
        self._in_use: dict[int, Memory] = {}  # by address
        # `Block.__del__` may run at any time, in any thread, also while this thread holds the lock
        self._returned: deque[Memory] = deque()
        self._lock = Lock()
        self.allocated = 0
        """Bytes that the pool has of the driver."""

    def taken(self, size: int, stream: Waiting | None = None) -> Block:
        """Return at least `size` bytes.

        Args:
            size: bytes.
            stream: that uses the memory first. It waits for the memory's last use, the caller does not. None: the
                memory is not used any more when this returns.

        Raises:
            BackendError: there is not enough memory.
        """
        wanted = size_of_block(size)
        with self._lock:
            self._sort_returned()
            memory = self._reused(wanted, stream is None) or self._within_limit(wanted) or self._new(wanted)
            self._in_use[memory.address] = memory
        block = Block(self, memory)  # gives the memory back if the wait fails
        if stream is None:
            memory.wait()
        else:
            for use in memory.uses:
                stream.wait(use)
        return block

    def array(self, shape: tuple[int, ...], dtype: str, stream: Waiting | None = None) -> GpuArray:
        """Return memory for an array; see `taken`."""
        return self.taken(GpuArray.size_of(shape, dtype), stream).array(shape, dtype)

    def has_room(self, size: int) -> bool:
        """True if memory of this size keeps all that is in use within the limit. Another thread may take it first."""
        with self._lock:
            self._sort_returned()
            idle = sum(each * len(blocks) for each, blocks in self._idle.items())
            return self._limit is None or self.allocated - idle + size_of_block(size) <= self._limit

    def give_back(self, memory: Memory) -> None:
        """Take memory back; called by `Block`."""
        self._returned.append(memory)

    def release_idle(self) -> None:
        """Wait for the last uses of all idle memory and give it back to the driver."""
        with self._lock:
            self._sort_returned()
            self._release_idle()

    def _sort_returned(self) -> None:
        while self._returned:
            memory = self._returned.popleft()
            del self._in_use[memory.address]
            self._idle.setdefault(memory.size, deque()).append(memory)

    def _reused(self, size: int, at_once: bool) -> Memory | None:
        idle = self._idle.get(size)
        if not idle:
            return None
        # the oldest is the most likely to be over
        if at_once and len(idle) < MOST_IDLE and not all(use.done() for use in idle[0].uses):
            return None
        return idle.popleft()

    def _within_limit(self, size: int) -> Memory | None:
        """Make room below the limit: by the oldest idle block of the size, or by freeing those of other sizes."""
        if self._limit is None or self.allocated + size <= self._limit:
            return None
        idle = self._idle.get(size)
        if idle:
            return idle.popleft()
        for other in sorted(self._idle, reverse=True):  # few large blocks are freed faster than many small ones
            while self._idle[other] and self.allocated + size > self._limit:
                self._release(self._idle[other])
        return None

    def _new(self, size: int) -> Memory:
        try:
            address = self._allocate(size)
        except CudaError as e:
            if e.sticky:
                raise
            if self._substitute is not None:
                address = self._substitute(size)
            elif e.name == OUT_OF_MEMORY:
                self._release_idle()
                address = self._second_try(size)
            else:
                raise
        self.allocated += size
        return Memory(address, size)

    def _second_try(self, size: int) -> int:
        try:
            return self._allocate(size)
        except CudaError as e:
            if e.name != OUT_OF_MEMORY:
                raise
            raise BackendError(
                f"there are no {size >> 20} MiB of memory left beside the {self.allocated >> 20} MiB in use; use a"
                " smaller batch_size or smaller images"
            ) from e

    def _release_idle(self) -> None:
        for idle in self._idle.values():
            while idle:
                self._release(idle)

    def _release(self, idle: deque[Memory]) -> None:
        """Give the oldest block back to the driver."""
        idle[0].wait()  # it stays in the pool if the wait fails
        memory = idle.popleft()
        self._free(memory.address)
        self.allocated -= memory.size


def size_of_block(size: int) -> int:
    """Return the size of the block for `size` bytes: a power of two and some eighths of it."""
    if size <= SMALLEST:
        return SMALLEST
    step = max(SMALLEST, (1 << (size - 1).bit_length()) // (2 * STEPS))
    return -(-size // step) * step


def host_array(block: Block) -> npt.NDArray[np.uint8]:
    """Return the bytes of a block of pinned memory; the array keeps the block."""
    return np.asarray(_Interface(block))


class _Interface:
    """A block as numpy's array interface has it."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self.__array_interface__ = {
            "data": (block.address, False),
            "shape": (block.size,),
            "typestr": "|u1",
            "version": 3,
        }
