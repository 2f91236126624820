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

import threading
from collections.abc import Mapping, Sequence

from condinst_deploy.runtime.cuda.driver import Argument, CudaError, Driver
from tests.support.strict_memory import StrictMemory
from tests.support.strict_state import GraphState, Kernels, Launch, Work


class StrictDriver(StrictMemory, Driver):
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
        super().__init__(data=data, memory=memory)
        self._capability = capability
        self.kernels: Kernels = dict(kernels or {})
        self._modules: dict[int, bytes] = {}
        self._functions: dict[int, str] = {}

    # ---- the GPU

    def capability(self) -> tuple[int, int]:
        with self.checked_call("capability"):
            return self._capability

    def name(self) -> str:
        with self.checked_call("name"):
            return "a double of a GPU"

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
            handle = self._new_handle()
            self._graphs[handle] = GraphState(works)
            return handle

    def abandon_capture(self, stream: int) -> None:
        with self.checked_call("abandon_capture"):
            self._end_capture(stream)

    def _end_capture(self, stream: int) -> list[Work]:
        state = self.stream_state(stream, "end_capture")
        if state.captured is None or state.capturer != threading.get_ident():
            self._misuse("a capture is ended that this thread did not begin")
        works, state.captured = state.captured, None
        return works

    def launch_graph(self, graph: int, stream: int) -> None:
        with self.checked_call("launch_graph"):
            state = self._graphs.get(graph)
            if state is None or state.destroyed:
                self._misuse("a graph is launched that was destroyed")
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
            handle = self._new_handle()
            self._modules[handle] = image
            return handle

    def unload_module(self, module: int) -> None:
        with self.checked_call("unload_module"):
            del self._modules[module]

    @property
    def modules_alive(self) -> int:
        """Modules that were not unloaded."""
        return len(self._modules)

    def function(self, module: int, name: str) -> int:
        with self.checked_call("function"):
            if name.encode() not in self._modules[module]:
                raise CudaError("cuModuleGetFunction", "CUDA_ERROR_NOT_FOUND")
            handle = self._new_handle()
            self._functions[handle] = name
            return handle

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

    def run_all(self) -> None:
        """Execute everything."""
        with self._lock:
            self._finish({number: state.issued for number, state in self._streams.items()})
