"""The calls of NVIDIA's driver that the engine runtime makes, through `cuda.bindings`.

`Driver` is the seam for tests: `tests/support/strict_driver.py` implements it without a GPU and checks every call.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, Protocol

from condinst_deploy.errors import BackendError, DeviceError
from condinst_deploy.shown_text import counted
from condinst_deploy.support.extras import install_command

Handle = Any
"""Handle of a stream, event, graph, module or function; `int(handle)` is its address for other libraries."""

Argument = tuple[int, str]
"""Value and type ("pointer", "i32" or "i64") of a kernel's argument."""

CTYPES = {"pointer": ctypes.c_void_p, "i32": ctypes.c_int32, "i64": ctypes.c_int64}

STICKY = frozenset(
    f"CUDA_ERROR_{name}"
    for name in (
        "ASSERT",
        "CONTEXT_IS_DESTROYED",
        "DEINITIALIZED",
        "ECC_UNCORRECTABLE",
        "HARDWARE_STACK_ERROR",
        "ILLEGAL_ADDRESS",
        "ILLEGAL_INSTRUCTION",
        "INVALID_ADDRESS_SPACE",
        "INVALID_PC",
        "LAUNCH_FAILED",
        "LAUNCH_TIMEOUT",
        "MISALIGNED_ADDRESS",
        "NVLINK_UNCORRECTABLE",
    )
)
"""Errors after which every call of the process fails, until the process ends."""

OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"

UNREADABLE_PTX = frozenset(
    f"CUDA_ERROR_{name}"
    for name in (
        "INVALID_IMAGE",
        "INVALID_PTX",
        "INVALID_SOURCE",
        "JIT_COMPILATION_DISABLED",
        "JIT_COMPILER_NOT_FOUND",
        "NO_BINARY_FOR_GPU",
        "UNSUPPORTED_PTX_VERSION",
    )
)
"""Errors of a driver that does not take a kernel, because it is too old or was made without a compiler."""

ALIGNMENT = 512
"""Bytes; of ordinary memory of the host, as the driver aligns its own."""

INSTALL = install_command("engine")


class CudaError(BackendError):
    """A call of the driver failed.

    Attributes:
        name: the driver's name of the error, for example CUDA_ERROR_OUT_OF_MEMORY.
        sticky: every later call of this process fails, too.
    """

    def __init__(self, call: str, name: str) -> None:
        self.name, self.sticky = name, name in STICKY
        advice = "; the GPU cannot be used by this process any more: start a new process" if self.sticky else ""
        super().__init__(f"{call} fails with {name}{advice}")


class Driver(Protocol):
    """One GPU. All calls but `push` need its context to be current in the calling thread.

    Raises:
        CudaError: from every call.

    Attributes:
        failure: name of the error that made the GPU useless for this process; None: there was none.
    """

    failure: str | None

    def push(self) -> None:
        """Make the GPU's context current in this thread."""

    def pop(self) -> None:
        """Undo the last `push` of this thread."""

    def capability(self) -> tuple[int, int]:
        """Return the compute capability."""

    def name(self) -> str:
        """Return the name of the GPU."""

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes on the GPU."""

    def free(self, address: int) -> None:
        """Release memory of `allocate` that no work uses any more."""

    def allocate_pinned(self, size: int) -> int:
        """Return the address of `size` bytes of the host from which the GPU copies without waiting."""

    def allocate_pageable(self, size: int) -> int:
        """Return the address of `size` bytes of ordinary memory of the host; copies may make the caller wait."""

    def free_host(self, address: int) -> None:
        """Release memory of `allocate_pinned` or `allocate_pageable` that no work uses any more."""

    def create_stream(self, *, urgent: bool) -> Handle:
        """Return a stream of its own. Work on an urgent one runs before other work that waits."""

    def destroy_stream(self, stream: Handle) -> None:
        """Release an idle stream."""

    def synchronize_stream(self, stream: Handle) -> None:
        """Wait for all work of a stream, without spinning."""

    def create_event(self) -> Handle:
        """Return an event whose waiters sleep."""

    def destroy_event(self, event: Handle) -> None:
        """Release an event."""

    def record_event(self, event: Handle, stream: Handle) -> None:
        """Record an event after the work that the stream has so far."""

    def event_done(self, event: Handle) -> bool:
        """True if the work before an event is finished."""

    def synchronize_event(self, event: Handle) -> None:
        """Wait for the work before an event."""

    def wait_event(self, stream: Handle, event: Handle) -> None:
        """Let later work of a stream wait for an event."""

    def copy_to_device(self, target: int, source: int, size: int, stream: Handle) -> None:
        """Copy bytes from memory of the host; if it is pinned, the caller does not wait."""

    def copy_to_host(self, target: int, source: int, size: int, stream: Handle) -> None:
        """Copy bytes into memory of the host; if it is pinned, the caller does not wait."""

    def copy_on_device(self, target: int, source: int, size: int, stream: Handle) -> None:
        """Copy bytes on the GPU."""

    def fill(self, target: int, value: int, size: int, stream: Handle) -> None:
        """Set bytes on the GPU."""

    def begin_capture(self, stream: Handle) -> None:
        """Begin to record the work that this thread gives to the stream, in place of running it."""

    def end_capture(self, stream: Handle) -> Handle:
        """Return the recorded work as a graph that can be launched."""

    def abandon_capture(self, stream: Handle) -> None:
        """End a capture that may be broken, and forget what it recorded."""

    def launch_graph(self, graph: Handle, stream: Handle) -> None:
        """Run a graph."""

    def destroy_graph(self, graph: Handle) -> None:
        """Release a graph that does not run."""

    def load_module(self, image: bytes) -> Handle:
        """Load a cubin, or PTX that ends with a zero byte."""

    def unload_module(self, module: Handle) -> None:
        """Release a module whose kernels do not run."""

    def function(self, module: Handle, name: str) -> Handle:
        """Return a kernel of a module."""

    def launch(
        self,
        function: Handle,
        grid: tuple[int, int, int],
        threads: int,
        shared: int,
        stream: Handle,
        arguments: Sequence[Argument],
    ) -> None:
        """Start a kernel."""


class CudaDriver:
    """`Driver` of a real GPU. It uses the context that TensorRT and PyTorch use, too."""

    def __init__(self, index: int) -> None:
        """Take the GPU of this number.

        Raises:
            BackendError: bindings, driver or GPU are missing.
        """
        self.failure: str | None = None
        self._cuda = cuda_bindings()
        _initialised(self._cuda)
        count = self._call("cuDeviceGetCount")
        if index >= count:
            raise DeviceError(
                f"device cuda:{index} was asked for; the driver sees {counted(count, 'GPU')}. Use device='cpu', or"
                " check with nvidia-smi"
            )
        self._device = self._call("cuDeviceGet", index)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._pageable: dict[int, Any] = {}  # address -> what keeps the memory

    def push(self) -> None:
        self._call("cuCtxPushCurrent", self._context)

    def pop(self) -> None:
        self._call("cuCtxPopCurrent")

    def capability(self) -> tuple[int, int]:
        names = self._cuda.CUdevice_attribute
        major = names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
        minor = names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR
        found = [self._call("cuDeviceGetAttribute", attribute, self._device) for attribute in (major, minor)]
        return int(found[0]), int(found[1])

    def name(self) -> str:
        return bytes(self._call("cuDeviceGetName", 256, self._device)).split(b"\0")[0].decode(errors="replace")

    def allocate(self, size: int) -> int:
        return int(self._call("cuMemAlloc", size))

    def free(self, address: int) -> None:
        self._call("cuMemFree", address)

    def allocate_pinned(self, size: int) -> int:
        return int(self._call("cuMemHostAlloc", size, self._cuda.CU_MEMHOSTALLOC_PORTABLE))

    def allocate_pageable(self, size: int) -> int:
        content = ctypes.create_string_buffer(size + ALIGNMENT)
        address = -(-ctypes.addressof(content) // ALIGNMENT) * ALIGNMENT
        self._pageable[address] = content
        return address

    def free_host(self, address: int) -> None:
        if self._pageable.pop(address, None) is None:
            self._call("cuMemFreeHost", address)

    def create_stream(self, *, urgent: bool) -> Handle:
        flag = self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING
        # priorities beyond those of the GPU become its highest
        return self._call("cuStreamCreateWithPriority", flag, -1 if urgent else 0)

    def destroy_stream(self, stream: Handle) -> None:
        self._call("cuStreamDestroy", stream)

    def synchronize_stream(self, stream: Handle) -> None:
        try:
            event = self.create_event()
        except CudaError as e:
            if e.sticky:
                raise
            self._call("cuStreamSynchronize", stream)  # needs nothing new, and what follows relies on the wait
            return
        try:
            self.record_event(event, stream)
            self.synchronize_event(event)  # sleeps, where waiting for the stream itself may spin
        finally:
            self.destroy_event(event)

    def create_event(self) -> Handle:
        flags = self._cuda.CUevent_flags
        return self._call("cuEventCreate", int(flags.CU_EVENT_DISABLE_TIMING) | int(flags.CU_EVENT_BLOCKING_SYNC))

    def destroy_event(self, event: Handle) -> None:
        self._call("cuEventDestroy", event)

    def record_event(self, event: Handle, stream: Handle) -> None:
        self._call("cuEventRecord", event, stream)

    def event_done(self, event: Handle) -> bool:
        (status,) = self._cuda.cuEventQuery(event)
        if status == self._cuda.CUresult.CUDA_ERROR_NOT_READY:
            return False
        self._check("cuEventQuery", status)
        return True

    def synchronize_event(self, event: Handle) -> None:
        self._call("cuEventSynchronize", event)

    def wait_event(self, stream: Handle, event: Handle) -> None:
        self._call("cuStreamWaitEvent", stream, event, 0)

    def copy_to_device(self, target: int, source: int, size: int, stream: Handle) -> None:
        self._call("cuMemcpyHtoDAsync", target, source, size, stream)

    def copy_to_host(self, target: int, source: int, size: int, stream: Handle) -> None:
        self._call("cuMemcpyDtoHAsync", target, source, size, stream)

    def copy_on_device(self, target: int, source: int, size: int, stream: Handle) -> None:
        self._call("cuMemcpyDtoDAsync", target, source, size, stream)

    def fill(self, target: int, value: int, size: int, stream: Handle) -> None:
        self._call("cuMemsetD8Async", target, value, size, stream)

    def begin_capture(self, stream: Handle) -> None:
        mode = self._cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)

    def end_capture(self, stream: Handle) -> Handle:
        graph = self._call("cuStreamEndCapture", stream)
        try:
            return self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def abandon_capture(self, stream: Handle) -> None:
        status, graph = self._cuda.cuStreamEndCapture(stream)
        if status == self._cuda.CUresult.CUDA_SUCCESS and int(graph):
            self._call("cuGraphDestroy", graph)

    def launch_graph(self, graph: Handle, stream: Handle) -> None:
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Handle) -> None:
        self._call("cuGraphExecDestroy", graph)

    def load_module(self, image: bytes) -> Handle:
        return self._call("cuModuleLoadData", image)

    def unload_module(self, module: Handle) -> None:
        self._call("cuModuleUnload", module)

    def function(self, module: Handle, name: str) -> Handle:
        return self._call("cuModuleGetFunction", module, name.encode())

    def launch(
        self,
        function: Handle,
        grid: tuple[int, int, int],
        threads: int,
        shared: int,
        stream: Handle,
        arguments: Sequence[Argument],
    ) -> None:
        values = tuple(value for value, _ in arguments)
        types = tuple(CTYPES[kind] for _, kind in arguments)
        self._call("cuLaunchKernel", function, *grid, threads, 1, 1, shared, stream, (values, types), 0)

    def _call(self, name: str, *arguments: Any) -> Any:
        status, *found = getattr(self._cuda, name)(*arguments)
        self._check(name, status)
        return found[0] if found else None

    def _check(self, call: str, status: Any) -> None:
        if status != self._cuda.CUresult.CUDA_SUCCESS:
            if status.name in STICKY:
                self.failure = status.name
            raise CudaError(call, status.name)  # without a variable: the frame that it keeps would keep the error


def bindings_present() -> bool:
    """True if `cuda.bindings` is installed."""
    try:
        cuda_bindings()
    except BackendError:
        return False
    return True


def cuda_bindings() -> Any:
    """Return the module `cuda.bindings.driver`.

    Raises:
        BackendError: it is not installed.
    """
    try:
        from cuda.bindings import driver
    except ImportError as e:
        raise BackendError(f"engines run through NVIDIA's cuda-bindings, which is not installed: {INSTALL}") from e
    return driver


def _initialised(cuda: Any) -> None:
    try:
        (status,) = cuda.cuInit(0)
    except (RuntimeError, OSError) as e:  # the bindings do not find the driver's library
        raise DeviceError("no NVIDIA driver is loaded on this machine; check with nvidia-smi") from e
    if status != cuda.CUresult.CUDA_SUCCESS:
        raise BackendError(f"the NVIDIA driver cannot be used ({status.name}); check with nvidia-smi")
