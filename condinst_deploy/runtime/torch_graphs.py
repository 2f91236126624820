"""CUDA graphs of a PyTorch network, one for each hot shape of a batch."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import torch
from torch import Tensor

from condinst_deploy.model.condinst import Instances
from condinst_deploy.runtime.device_outputs import wait_for
from condinst_deploy.runtime.hot_shapes import HotLimits, HotShapes
from condinst_deploy.runtime.torch_streams import own_stream

Network = Callable[[Tensor, Tensor], Instances]
"""Images `(B, 3, H, W)` and sizes `(B, 2)` -> outputs; all on one device, and without waiting for it."""

SAFE_CAPTURES = (2, 13)
"""Version of PyTorch from which on a failed capture leaves its allocator in order (pytorch/pytorch#180395)."""

WARM_UPS = 2
"""Runs before a capture: kernels are compiled and chosen, and libraries allocate what they keep."""


class Graph(Protocol):
    """Recorded work."""

    def replay(self) -> None:
        """Run it on the current stream."""


class Capturer(Protocol):
    """Makes graphs, and has the stream that all of them run on."""

    def captured(self, work: Callable[[], Instances]) -> tuple[Graph, Instances] | None:
        """Record work; the outputs lie at fixed addresses. None: it cannot be recorded."""

    def stream(self) -> AbstractContextManager[None]:
        """Make the graphs' stream current. It waits for the caller's, and the caller's waits for it at the end."""

    def wait(self) -> None:
        """Wait for the graphs' stream."""


@dataclass(frozen=True)
class ShapeGraph:
    """A graph with the memory whose addresses it holds."""

    graph: Graph
    images: Tensor
    image_sizes: Tensor
    outputs: Instances

    def run(self, images: Tensor, image_sizes: Tensor) -> Instances:
        """Start a replay. The outputs are copies, so the next replay may follow at once."""
        self.images.copy_(images, non_blocking=True)
        self.image_sizes.copy_(image_sizes, non_blocking=True)
        self.graph.replay()
        return Instances(*(tensor.clone() for tensor in self.outputs))


class GraphedNetwork:
    """A network that runs by graphs where shapes come often. Threads may share it; they start their runs in turn.

    After one capture that fails there is no other: a network that cannot be captured once cannot be captured at all.
    """

    def __init__(self, network: Network, capturer: Capturer | None, limits: HotLimits | None = None) -> None:
        """`capturer` None: no graphs."""
        self._network, self._capturer = network, capturer
        self._hot: HotShapes[torch.Size] = HotShapes(limits or HotLimits(most=32))
        self._graphs: dict[torch.Size, ShapeGraph] = {}
        self._lock = Lock()

    def __call__(self, images: Tensor, image_sizes: Tensor) -> Instances:
        """Start a run on the current stream."""
        if self._capturer is None:
            return self._network(images, image_sizes)
        with self._lock:
            found = self._graph_of(images, image_sizes)
            if found is None or self._capturer is None:
                return self._network(images, image_sizes)
            with self._capturer.stream():
                return found.run(images, image_sizes)

    def close(self) -> None:
        """Release the graphs."""
        with self._lock:
            if self._capturer is not None and self._graphs:
                self._capturer.wait()
            self._graphs.clear()
            self._capturer = None

    def _graph_of(self, images: Tensor, image_sizes: Tensor) -> ShapeGraph | None:
        shape = images.shape
        wanted = self._hot.came(shape, shape[0], shape[2:])  # counts the run, too
        if wanted:
            self._capture(images, image_sizes)
        return self._graphs.get(shape)

    def _capture(self, images: Tensor, image_sizes: Tensor) -> None:
        assert self._capturer is not None
        try:
            with self._capturer.stream():
                made = self._recorded(self._capturer, images, image_sizes)
        except torch.OutOfMemoryError:  # a graph needs memory of its own; the run itself may fit
            made = None
        if made is None:
            self._capturer.wait()  # a graph that runs must not be released
            self._graphs.clear()
            self._capturer = None
            return
        cooled = self._hot.heat(images.shape)
        if cooled is not None:
            self._capturer.wait()
            del self._graphs[cooled]
        self._graphs[images.shape] = made

    def _recorded(self, capturer: Capturer, images: Tensor, image_sizes: Tensor) -> ShapeGraph | None:
        own = images.clone(), image_sizes.clone()
        for _ in range(WARM_UPS):
            self._network(*own)
        capturer.wait()
        found = capturer.captured(lambda: self._network(*own))
        return None if found is None else ShapeGraph(found[0], *own, found[1])


class CudaCapturer:
    """`Capturer` of a GPU. Its graphs share their memory, because they run in turn."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = own_stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def captured(self, work: Callable[[], Instances]) -> tuple[Graph, Instances] | None:
        """See `Capturer`. `torch.cuda.graph` would empty all caches and wait for the whole GPU."""
        graph = torch.cuda.CUDAGraph()
        try:
            graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        except RuntimeError:
            return None
        try:
            outputs = work()
        except BaseException as e:
            with suppress(RuntimeError):  # it says again that the capture is broken
                graph.capture_end()
            if isinstance(e, RuntimeError):
                return None
            raise
        try:
            graph.capture_end()
        except RuntimeError:
            return None
        return graph, outputs

    @contextmanager
    def stream(self) -> Iterator[None]:
        """See `Capturer`."""
        outer = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(outer)
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:
            outer.wait_stream(self._stream)

    def wait(self) -> None:
        """See `Capturer`."""
        wait_for(self._stream)


def capturer_for(device: torch.device) -> CudaCapturer | None:
    """Return the capturer of a GPU; None on a CPU, and where a failed capture would damage PyTorch's allocator."""
    return CudaCapturer(device) if device.type == "cuda" and captures_are_safe(torch.__version__) else None


def captures_are_safe(version: str) -> bool:
    """Return whether a version of PyTorch ("2.14.0+cu130") survives a capture that fails."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= SAFE_CAPTURES
