"""Memory of a double of a GPU's driver, the work that touches it, and copies."""

import ctypes
import threading
import zlib
from bisect import bisect_right, insort
from collections.abc import Callable
from typing import Any

import numpy as np

from condinst_deploy.runtime.cuda.driver import OUT_OF_MEMORY, CudaError
from tests.support.strict_state import Access, Allocation, GraphState, Span, StreamState, Work
from tests.support.strict_streams import StrictStreams


class StrictMemory(StrictStreams):
    """Allocations, and the order of all that touches them."""

    def __init__(self, *, data: bool, memory: int) -> None:
        """`data`: whether memory of the GPU is real; `memory`: bytes of the GPU."""
        super().__init__()
        self._data, self._free_bytes = data, memory
        self._allocations: dict[int, Allocation] = {}
        self._addresses: list[int] = []
        self._next_address = 1 << 40
        self._graphs: dict[int, GraphState] = {}  # they keep the addresses of memory
        self._order = 0

    def allocate(self, size: int) -> int:
        return self._allocate(size, pinned=False, kind="allocate")

    def allocate_pinned(self, size: int) -> int:
        return self._allocate(size, pinned=True, kind="allocate_pinned")

    def free(self, address: int) -> None:
        self._release(address, pinned=False)

    def allocate_pageable(self, size: int) -> int:
        return self._allocate(size, pinned=True, kind="allocate_pageable")

    def free_host(self, address: int) -> None:
        self._release(address, pinned=True)

    def _allocate(self, size: int, *, pinned: bool, kind: str) -> int:
        with self.checked_call(kind):
            self._no_capture("allocates memory")
            if size < 1:
                self._misuse(f"{size} bytes are allocated")
            if not pinned:
                if size > self._free_bytes:
                    raise CudaError("cuMemAlloc", OUT_OF_MEMORY)
                self._free_bytes -= size
            memory = None
            if self._data or pinned:
                # old values, not zeros; without data nobody looks
                memory = np.full(size + 512, 0xA5, np.uint8) if self._data else np.empty(size + 512, np.uint8)
                address = -(-memory.ctypes.data // 512) * 512
            else:
                address, self._next_address = self._next_address, self._next_address + (size // 4096 + 2) * 4096
            self._allocations[address] = Allocation(address, size, pinned, memory)
            insort(self._addresses, address)
            return address

    def _release(self, address: int, *, pinned: bool) -> None:
        with self.checked_call("free"):
            self._no_capture("frees memory")
            found = self._allocations.get(address)
            if found is None or found.freed or found.pinned != pinned:
                self._misuse(f"free of {address:#x}, which is no such memory, or was freed before")
            for access in found.accesses:
                if not self._over(access.stream, access.number):
                    self._misuse(f"memory is freed that {access.what} still uses")
            for graph in self._graphs.values():
                if not graph.destroyed and any(self._inside(found, s) for w in graph.works for s in w.spans):
                    self._misuse("memory is freed that a graph uses")
            found.freed = True
            if not pinned:
                self._free_bytes += found.size

    @staticmethod
    def _inside(allocation: Allocation, span: Span) -> bool:
        return allocation.address <= span.address < allocation.address + allocation.size

    def _allocation(self, span: Span, what: str) -> Allocation:
        at = bisect_right(self._addresses, span.address) - 1
        found = self._allocations[self._addresses[at]] if at >= 0 else None
        if found is None or span.address + span.size > found.address + found.size:
            self._misuse(f"{what} touches {span.size} bytes at {span.address:#x}, which leave every allocation")
        if found.freed:
            self._misuse(f"{what} uses memory that was freed")
        return found

    def give(self, stream: int, work: Work) -> None:
        """Take work for a stream, or for the graph that is captured there."""
        state = self.stream_state(stream, work.what)
        touched = [(self._allocation(span, work.what), span) for span in work.spans if span.size]
        if state.captured is not None:
            if state.capturer != threading.get_ident():
                self._misuse(f"{work.what} of another thread lands in a graph")
            state.captured.append(work)
            return
        state.issued += 1
        self._order += 1
        state.pending.append((self._order, state.issued, work))
        for allocation, span in touched:
            self._check_order(allocation, span, state, work.what)

    def _check_order(self, allocation: Allocation, span: Span, state: StreamState, what: str) -> None:
        kept = []
        for access in allocation.accesses:
            other = access.span
            overlap = other.address < span.address + span.size and span.address < other.address + other.size
            before = access.stream == state.number or state.clock.get(access.stream, 0) >= access.number
            over = self._over(access.stream, access.number)
            if overlap and (span.writes or other.writes) and not before and not over:
                verbs = ["reads", "writes"]
                self._misuse(
                    f"{what} {verbs[span.writes]} memory that {access.what} {verbs[other.writes]} in another stream,"
                    " and does not wait for it"
                )
            if not over:
                kept.append(access)
        kept.append(Access(span, state.number, state.issued, what))
        allocation.accesses = kept

    # ---- copies

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        with self.checked_call("copy_to_device"):
            self._pinned(source, size, "copy_to_device", pinned=True)
            self._pinned(target, size, "copy_to_device", pinned=False)
            check = zlib.crc32(_bytes(source, size)) if self._data else 0

            def execute() -> None:
                if zlib.crc32(_bytes(source, size)) != check:
                    self._misuse("the source of a copy was written while the copy was in flight")
                ctypes.memmove(target, source, size)

            self._copy("copy_to_device", target, source, size, stream, execute)

    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None:
        with self.checked_call("copy_to_host"):
            self._pinned(target, size, "copy_to_host", pinned=True)
            self._pinned(source, size, "copy_to_host", pinned=False)
            move = lambda: ctypes.memmove(target, source, size)  # noqa: E731
            self._copy("copy_to_host", target, source, size, stream, move)

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        with self.checked_call("copy_on_device"):
            move = lambda: ctypes.memmove(target, source, size)  # noqa: E731
            self._copy("copy_on_device", target, source, size, stream, move)

    def fill(self, target: int, value: int, size: int, stream: int) -> None:
        with self.checked_call("fill"):
            execute = (lambda: ctypes.memset(target, value, size)) if self._data else None
            self.give(stream, Work("fill", (Span(target, size, True),), execute))  # type: ignore[arg-type]

    def _copy(self, what: str, target: int, source: int, size: int, stream: int, move: Callable[[], Any]) -> None:
        if size < 1:
            self._misuse(f"{what} of {size} bytes")
        spans = (Span(source, size, False), Span(target, size, True))
        self.give(stream, Work(what, spans, move if self._data else None))

    def _pinned(self, address: int, size: int, what: str, *, pinned: bool) -> None:
        if self._allocation(Span(address, size, False), what).pinned != pinned:
            self._misuse(f"{what} takes memory of the host for memory of the GPU, or the other way round")

    def allocated(self, *, pinned: bool = False) -> int:
        """Bytes that were not freed."""
        return sum(a.size for a in self._allocations.values() if a.pinned == pinned and not a.freed)


def _bytes(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)
