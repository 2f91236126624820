"""A GPU's driver without a GPU: a plain double that runs nothing but copies, and fails on misuse.

Streams run as late as they may: work is executed when somebody waits for it, in an order that events allow. So a wait
that was forgotten shows old values, or is found here:

* use of memory that was freed, or that never was; sizes that leave a block
* two accesses to the same memory, one of them a write, from streams of which neither waits for the other
* memory, streams, events and graphs that are released while work needs them
* a source in pinned memory that changed between a copy's launch and its execution
* a capture that waits, allocates, or that another thread disturbs
* calls in threads where the GPU is not current

There are no made-up results: a kernel or an engine that has no implementation given only marks what it touches.
"""

import ctypes
import threading
import zlib
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from condinst_deploy.runtime.cuda.driver import OUT_OF_MEMORY, Argument, CudaError, Driver
from tests.support.strict_state import (
    Access,
    Allocation,
    Clock,
    EventState,
    GraphState,
    Kernels,
    Launch,
    Span,
    StreamState,
    Work,
    join,
)


class MisuseError(AssertionError):
    """The runtime did what CUDA does not allow, or what gives wrong results on a GPU."""


class StrictDriver(Driver):
    """The double.

    Args:
        data: whether memory of the GPU is real and copies are executed. Without, sizes and order are checked alone.
        capability: compute capability.
        memory: bytes of the GPU.
        kernels: name of a kernel -> its implementation (grid, values of the arguments), and what it touches.
    """

    def __init__(
        self,
        *,
        data: bool = True,
        capability: tuple[int, int] = (9, 0),
        memory: int = 1 << 36,
        kernels: "Mapping[str, Launch] | None" = None,
    ) -> None:
        self.failure: str | None = None
        self._data, self._capability, self._free_bytes = data, capability, memory
        self.kernels: Kernels = dict(kernels or {})
        self._lock = threading.RLock()
        self._current = threading.local()
        self._allocations: dict[int, Allocation] = {}
        self._addresses: list[int] = []
        self._next_address = 1 << 40
        self._streams: dict[int, StreamState] = {}
        self._events: dict[int, EventState] = {}
        self._graphs: dict[int, GraphState] = {}
        self._modules: dict[int, bytes] = {}
        self._functions: dict[int, str] = {}
        self._handle = 1000
        self._order = 0
        self._finished: Clock = {}  # works that are over for certain
        self.misuses: list[str] = []
        self.fail_next: str | None = None  # name of an error that the next call has
        self.activations: dict[int, tuple[Any, int]] = {}  # stream -> engine that runs there, and its memory

    # ---- the thread

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

    def _misuse(self, text: str) -> None:
        self.misuses.append(text)  # an error in `__del__` would be lost
        raise MisuseError(text)

    # ---- the GPU

    def capability(self) -> tuple[int, int]:
        with self.checked_call("capability"):
            return self._capability

    def name(self) -> str:
        with self.checked_call("name"):
            return "a double of a GPU"

    # ---- memory

    def allocate(self, size: int) -> int:
        return self._allocate(size, pinned=False)

    def allocate_pinned(self, size: int) -> int:
        return self._allocate(size, pinned=True)

    def free(self, address: int) -> None:
        self._release(address, pinned=False)

    def free_pinned(self, address: int) -> None:
        self._release(address, pinned=True)

    def _allocate(self, size: int, *, pinned: bool) -> int:
        with self.checked_call("allocate"):
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
            assert found is not None
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
        assert found is not None
        if found.freed:
            self._misuse(f"{what} uses memory that was freed")
        return found

    # ---- streams and events

    def create_stream(self, *, urgent: bool) -> int:
        with self.checked_call("create_stream"):
            self._handle += 1
            self._streams[self._handle] = StreamState(self._handle, {})
            return self._handle

    def destroy_stream(self, stream: int) -> None:
        with self.checked_call("destroy_stream"):
            state = self.stream_state(stream, "destroy_stream")
            if state.captured is not None or not self._over(stream, state.issued):
                self._misuse("a stream is destroyed that has work")
            state.destroyed = True
            self.activations.pop(stream, None)

    def synchronize_stream(self, stream: int) -> None:
        with self.checked_call("synchronize_stream"):
            self._no_capture("waits for a stream")
            state = self.stream_state(stream, "synchronize_stream")
            self._finish({**state.clock, stream: state.issued})

    def create_event(self) -> int:
        with self.checked_call("create_event"):
            self._handle += 1
            self._events[self._handle] = EventState()
            return self._handle

    def destroy_event(self, event: int) -> None:
        with self.checked_call("destroy_event"):
            self._event(event).destroyed = True
            del self._events[event]

    def record_event(self, event: int, stream: int) -> None:
        with self.checked_call("record_event"):
            state = self.stream_state(stream, "record_event")
            if state.captured is not None:
                self._misuse("an event is recorded on a stream that is captured")
            self._event(event).clock = {**state.clock, stream: state.issued}

    def event_done(self, event: int) -> bool:
        with self.checked_call("event_done"):
            self._no_capture("asks for an event")
            return all(self._over(stream, number) for stream, number in self._recorded(event).items())

    def synchronize_event(self, event: int) -> None:
        with self.checked_call("synchronize_event"):
            self._no_capture("waits for an event")
            self._finish(self._recorded(event))

    def wait_event(self, stream: int, event: int) -> None:
        with self.checked_call("wait_event"):
            state = self.stream_state(stream, "wait_event")
            if state.captured is not None:
                self._misuse("a captured stream waits for an event from outside of the capture")
            join(state.clock, self._recorded(event))

    def stream_state(self, stream: int, what: str) -> StreamState:
        state = self._streams.get(stream)
        if state is None or state.destroyed:
            self._misuse(f"{what} on a stream that does not exist, or was destroyed")
        assert state is not None
        return state

    def _event(self, event: int) -> EventState:
        state = self._events.get(event)
        if state is None:
            self._misuse("an event is used that was destroyed")
        assert state is not None
        return state

    def _recorded(self, event: int) -> Clock:
        clock = self._event(event).clock
        if clock is None:
            self._misuse("an event is waited for that was not recorded")
        assert clock is not None
        return clock

    def _over(self, stream: int, number: int) -> bool:
        return self._finished.get(stream, 0) >= number

    def _finish(self, clock: Clock) -> None:
        """Execute what lies before a clock, in the order in which it was given."""
        due: list[tuple[int, Work]] = []
        for stream, number in clock.items():
            pending = self._streams[stream].pending
            while pending and pending[0][1] <= number:
                order, _, work = pending.popleft()
                due.append((order, work))
        join(self._finished, clock)
        for _, work in sorted(due, key=lambda entry: entry[0]):
            if work.execute is not None:
                work.execute()

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

    # ---- graphs

    def begin_capture(self, stream: int) -> None:
        with self.checked_call("begin_capture"):
            state = self.stream_state(stream, "begin_capture")
            if state.captured is not None:
                self._misuse("a stream is captured twice")
            state.captured, state.capturer = [], threading.get_ident()

    def end_capture(self, stream: int) -> int:
        with self.checked_call("end_capture"):
            works = self._end_capture(stream)
            if not works:
                self._misuse("an empty graph is captured")
            self._handle += 1
            self._graphs[self._handle] = GraphState(works)
            return self._handle

    def abandon_capture(self, stream: int) -> None:
        with self.checked_call("abandon_capture"):
            self._end_capture(stream)

    def _end_capture(self, stream: int) -> list[Work]:
        state = self.stream_state(stream, "end_capture")
        if state.captured is None or state.capturer != threading.get_ident():
            self._misuse("a capture is ended that this thread did not begin")
        works, state.captured = state.captured, None
        assert works is not None
        return works

    def _no_capture(self, what: str) -> None:
        """A thread that captures must do none of what waits for the GPU."""
        for state in self._streams.values():
            if state.captured is not None and state.capturer == threading.get_ident():
                self._misuse(f"a thread {what} while it captures")

    def launch_graph(self, graph: int, stream: int) -> None:
        with self.checked_call("launch_graph"):
            state = self._graphs.get(graph)
            if state is None or state.destroyed:
                self._misuse("a graph is launched that was destroyed")
            assert state is not None
            for work in state.works:
                self.give(stream, Work(f"{work.what} of a graph", work.spans, work.execute))
            state.last = stream, self._streams[stream].issued

    def destroy_graph(self, graph: int) -> None:
        with self.checked_call("destroy_graph"):
            state = self._graphs[graph]
            if state.destroyed or (state.last is not None and not self._over(*state.last)):
                self._misuse("a graph is destroyed that runs, or was destroyed before")
            state.destroyed = True

    @property
    def graphs_alive(self) -> int:
        """Graphs that were not destroyed."""
        return sum(not graph.destroyed for graph in self._graphs.values())

    # ---- kernels

    def load_module(self, image: bytes) -> int:
        with self.checked_call("load_module"):
            if not image.startswith(b"\x7fELF") and not image.endswith(b"\0"):
                self._misuse("a module is neither a cubin nor text with a zero byte at its end")
            self._handle += 1
            self._modules[self._handle] = image
            return self._handle

    def function(self, module: int, name: str) -> int:
        with self.checked_call("function"):
            if name.encode() not in self._modules[module]:
                raise CudaError("cuModuleGetFunction", "CUDA_ERROR_NOT_FOUND")
            self._handle += 1
            self._functions[self._handle] = name
            return self._handle

    def launch(
        self,
        function: int,
        grid: tuple[int, int, int],
        threads: int,
        shared: int,
        stream: int,
        arguments: Sequence[Argument],
    ) -> None:
        with self.checked_call("launch"):
            name = self._functions[function]
            if not all(1 <= side <= limit for side, limit in zip(grid, (2**31 - 1, 65535, 65535), strict=True)):
                self._misuse(f"{name} is launched with the grid {grid}")
            if name not in self.kernels:
                self._misuse(f"{name} is launched, and the double does not know it")
            values = [value for value, _ in arguments]
            for (value, kind), bits in ((argument, 31) for argument in arguments):
                if kind == "i32" and not -(2**bits) <= value < 2**bits:
                    self._misuse(f"{name} gets {value} as a number of 32 bits")
            touched, run = self.kernels[name](grid, values)
            self.give(stream, Work(name, tuple(touched), run if self._data else None))

    # ---- what a test looks at

    def allocated(self, *, pinned: bool = False) -> int:
        """Bytes that were not freed."""
        return sum(a.size for a in self._allocations.values() if a.pinned == pinned and not a.freed)

    def run_all(self) -> None:
        """Execute everything."""
        with self._lock:
            self._finish({number: state.issued for number, state in self._streams.items()})


def _bytes(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)
