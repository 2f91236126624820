"""A GPU with its memory; streams, events and captured graphs on it.

Every object has one owner. Streams and graphs are closed by theirs. Events and memory go back when nothing refers to
them any more, because batches pass through several threads.
"""

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Any, Self

from condinst_deploy.errors import BackendError
from condinst_deploy.kernels.shipped import LOWEST_CAPABILITY, ShippedKernel, shipped_kernel
from condinst_deploy.runtime.cuda.driver import UNREADABLE_PTX, CudaDriver, CudaError, Driver, Handle
from condinst_deploy.runtime.cuda.memory_pools import GpuArray, MemoryPool, host_array
from condinst_deploy.runtime.gpu_failure import check_usable
from condinst_deploy.runtime.gpu_probe import PROBE, check_returned
from condinst_deploy.runtime.pinned_budget import MOST_PINNED

NOT_PINNED = (
    "the system gives this process no more pinned memory: images cross to the GPU through ordinary memory, which is"
    " slower. Give the process more memory, or use a smaller batch_size"
)


class Gpu:
    """One GPU in this process.

    Attributes:
        driver: its calls.
        memory: on the GPU.
        pinned: of the host, from which the GPU copies. Where the system gives no more pinned memory, ordinary memory
            takes its place, and copies make the caller wait.
    """

    def __init__(self, driver: Driver, most_pinned: int = MOST_PINNED) -> None:
        self.driver = driver
        self.memory = MemoryPool(driver.allocate, driver.free)
        self.pinned = MemoryPool(driver.allocate_pinned, driver.free_host, most_pinned, self._pageable)
        self._side_streams: deque[Stream] = deque()
        self._kernels: dict[str, Kernel | None] = {}
        self._kernels_lock = Lock()

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this GPU the current one of the thread; the caller's comes back behind the block.

        Raises:
            BackendError: the GPU failed earlier in a way that this process cannot get over.
        """
        check_usable(self.driver.failure)
        self.driver.push()
        try:
            yield
        finally:
            with suppress(CudaError):  # after an error that stays, this fails, too; the first error is the one to show
                self.driver.pop()

    @contextmanager
    def side_stream(self) -> "Iterator[Stream]":
        """Return a stream that no other code uses in the block, with this GPU as the current one.

        Its work runs before that of the network. The block must wait for all its work on the stream.
        """
        with self.current():
            try:
                stream = self._side_streams.pop()
            except IndexError:
                stream = Stream(self, urgent=True)
            try:
                with stream.settled():
                    yield stream
            finally:
                self._side_streams.append(stream)

    def _pageable(self, size: int) -> int:
        warnings.warn(NOT_PINNED, stacklevel=2)
        try:
            return self.driver.allocate_pageable(size)
        except MemoryError as e:
            raise BackendError(f"the host has no {size >> 20} MiB of memory left; use a smaller batch_size") from e

    def kernel(self, name: str) -> "Kernel | None":
        """Load a kernel of the package (`kernels/shipped.py`); this GPU is current. It stays loaded.

        Returns:
            None if this GPU, or its driver, cannot run it.
        """
        with self._kernels_lock:
            if name not in self._kernels:
                self._kernels[name] = self._loaded(shipped_kernel(name))
            return self._kernels[name]

    def _loaded(self, shipped: ShippedKernel) -> "Kernel | None":
        major, minor = self.driver.capability()
        if 10 * major + minor < LOWEST_CAPABILITY:
            return None
        try:
            module = self.driver.load_module(shipped.ptx + b"\0")
        except CudaError as e:
            if e.name in UNREADABLE_PTX:
                return None
            raise
        try:
            return Kernel(self, shipped, self.driver.function(module, shipped.name))
        except CudaError as e:
            if not e.sticky:
                self.driver.unload_module(module)
            raise

    def check(self) -> None:
        """Send some bytes to the GPU and back.

        Raises:
            BackendError: the GPU does not work.
        """
        with self.side_stream() as stream:
            there, host = self.memory.taken(len(PROBE), stream), self.pinned.taken(len(PROBE))
            host_array(host)[: len(PROBE)] = list(PROBE)
            array = there.array((len(PROBE),), "uint8")
            stream.upload(array, host)
            (found,) = stream.downloaded([array])
            check_returned(found.tobytes())

    def release_idle(self) -> None:
        """Give memory that is not in use back to the driver."""
        if self.driver.failure is None:
            with self.current():
                self.memory.release_idle()
                self.pinned.release_idle()


_GPUS: dict[int, Gpu] = {}
_GPUS_LOCK = Lock()


def shared_gpu(index: int) -> Gpu:
    """Return the GPU of this number; all models of the process share its memory.

    Raises:
        BackendError: there is no such GPU, or bindings or driver are missing.
    """
    with _GPUS_LOCK:
        if index not in _GPUS:
            _GPUS[index] = Gpu(CudaDriver(index))
        return _GPUS[index]


class Event:
    """A point in the work of a stream."""

    def __init__(self, gpu: Gpu, stream: Handle) -> None:
        self._gpu = gpu
        self.handle = gpu.driver.create_event()
        gpu.driver.record_event(self.handle, stream)

    def done(self) -> bool:
        """True if the work before it is finished."""
        return self._gpu.driver.event_done(self.handle)

    def synchronize(self) -> None:
        """Wait for the work before it."""
        self._gpu.driver.synchronize_event(self.handle)

    def __del__(self) -> None:
        # the interpreter may be ending, and a broken GPU has no events to release
        with suppress(Exception), self._gpu.current():
            self._gpu.driver.destroy_event(self.handle)


class Graph:
    """Captured work. The memory that it uses must stay where it is; its owner closes it."""

    def __init__(self, gpu: Gpu, handle: Handle) -> None:
        self._gpu, self._handle = gpu, handle

    def launch(self, stream: "Stream") -> None:
        """Run it on a stream."""
        self._gpu.driver.launch_graph(self._handle, stream.handle)

    def close(self) -> None:
        """Release it; it must not be running."""
        self._gpu.driver.destroy_graph(self._handle)


class Kernel:
    """A kernel that is loaded."""

    def __init__(self, gpu: Gpu, shipped: ShippedKernel, function: Handle) -> None:
        self._gpu, self._shipped, self._function = gpu, shipped, function

    def launch(self, stream: "Stream", grid: tuple[int, int, int], *values: int) -> None:
        """Start it on a stream. The memory of its arguments must stay until the work is over."""
        arguments = list(zip(values, self._shipped.arguments, strict=True))
        shared = self._shipped.shared_bytes
        self._gpu.driver.launch(self._function, grid, self._shipped.threads, shared, stream.handle, arguments)


class Stream:
    """Work that runs in order. It has one owner: no pool hands it out twice."""

    def __init__(self, gpu: Gpu, *, urgent: bool = False) -> None:
        self._gpu = gpu
        self.handle = gpu.driver.create_stream(urgent=urgent)

    def wait(self, event: Event | None) -> None:
        """Let later work wait for an event."""
        if event is not None:
            self._gpu.driver.wait_event(self.handle, event.handle)

    def record(self) -> Event:
        """Return an event behind all work so far."""
        return Event(self._gpu, self.handle)

    def synchronize(self) -> None:
        """Wait for all work."""
        self._gpu.driver.synchronize_stream(self.handle)

    @contextmanager
    def settled(self) -> Iterator[None]:
        """After an error in the block, wait for all work, so that the memory of started work can be used again."""
        try:
            yield
        except BaseException:
            with suppress(CudaError):  # the first error is the one to show
                self.synchronize()
            raise

    def upload(self, target: GpuArray, source: Any, offset: int = 0) -> None:
        """Copy a whole array from a block of pinned memory, from byte `offset` on. The caller does not wait."""
        self._gpu.driver.copy_to_device(target.address, source.address + offset, target.nbytes, self.handle)

    def copy(self, target: GpuArray, source: GpuArray) -> None:
        """Copy a whole array on the GPU."""
        if target.nbytes != source.nbytes:
            raise ValueError(f"{source.nbytes} bytes do not fill {target.nbytes}")
        self._gpu.driver.copy_on_device(target.address, source.address, source.nbytes, self.handle)

    def fill(self, target: GpuArray, value: int) -> None:
        """Set all bytes of an array."""
        if target.nbytes:
            self._gpu.driver.fill(target.address, value, target.nbytes, self.handle)

    def downloaded(self, arrays: Sequence[GpuArray]) -> list[Any]:
        """Return arrays on the host; the caller waits once, for all work of the stream."""
        blocks = [self._gpu.pinned.taken(array.nbytes) for array in arrays]
        for block, array in zip(blocks, arrays, strict=True):
            if array.nbytes:
                self._gpu.driver.copy_to_host(block.address, array.address, array.nbytes, self.handle)
        self.record().synchronize()
        return [
            host_array(block)[: array.nbytes].view(array.dtype).reshape(array.shape).copy()
            for block, array in zip(blocks, arrays, strict=True)
        ]

    def captured(self, work: Callable[[], bool]) -> Graph | None:
        """Record work as a graph, in place of running it.

        Args:
            work: gives the work to this stream alone, and says whether it could.

        Returns:
            None if the work cannot be captured: something in it waits for the GPU, or refuses.
        """
        try:
            self._gpu.driver.begin_capture(self.handle)
        except CudaError as e:
            if e.sticky:
                raise
            return None
        try:
            if work():
                return Graph(self._gpu, self._gpu.driver.end_capture(self.handle))
        except CudaError as e:
            if e.sticky:
                raise
        except BaseException:
            self._gpu.driver.abandon_capture(self.handle)
            raise
        self._gpu.driver.abandon_capture(self.handle)
        return None

    def close(self) -> None:
        """Wait for all work, then release the stream."""
        self.synchronize()
        self._gpu.driver.destroy_stream(self.handle)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
