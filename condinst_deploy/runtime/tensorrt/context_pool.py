"""The execution contexts of a slot: one for each profile, and one with a CUDA graph for each hot shape."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from condinst_deploy.runtime.cuda.gpu import Graph
from condinst_deploy.runtime.cuda.memory_pools import Block
from condinst_deploy.runtime.hot_shapes import HotLimits, HotShapes
from condinst_deploy.runtime.tensorrt.execution_context import ExecutionContext
from condinst_deploy.runtime.tensorrt.shapes import BatchShape


@dataclass(frozen=True)
class SlotMemory:
    """Memory that contexts of a slot run in, one after the other."""

    activations: Block
    tensors: Mapping[str, Block]  # inputs and outputs


class CapturedRun(NamedTuple):
    """A graph, the context that it was captured from, and the memory whose addresses it holds."""

    graph: Graph
    context: ExecutionContext
    memory: SlotMemory


MakeContext = Callable[[int | None], ExecutionContext]
"""Profile -> a new context. None: the engine has one shape."""


class ContextPool:
    """Contexts of one slot. One thread at a time uses it.

    A CUDA graph holds the shape and the addresses of the context that it was captured from. So a hot shape has a
    context of its own, which is never reshaped.

    Attributes:
        made: contexts and graphs that were made so far.
        replays: runs that were replays of a graph.
    """

    def __init__(self, make: MakeContext, limits: HotLimits | None) -> None:
        """`limits` None: the engine cannot be captured, or captures itself."""
        self._make, self._limits = make, limits
        self._by_profile: dict[int | None, ExecutionContext] = {}
        self._captured: dict[BatchShape, CapturedRun] = {}
        self._hot: HotShapes[BatchShape] = HotShapes(limits or HotLimits(most=0))
        self.made = self.replays = 0

    def of_profile(self, profile: int | None) -> ExecutionContext:
        """The context of a profile, with the shape of its last run."""
        if profile not in self._by_profile:
            self._by_profile[profile] = self._make(profile)
            self.made += 1
        return self._by_profile[profile]

    def captured(self, shape: BatchShape) -> CapturedRun | None:
        """The graph of a shape; None: it has none."""
        found = self._captured.get(shape)
        self.replays += found is not None
        return found

    def wants_graph(self, shape: BatchShape) -> bool:
        """Count a run of a shape. True if it should be captured now."""
        size = (shape.height, shape.width)
        return self._limits is not None and self._hot.came(shape, shape.batch, size)

    def for_capture(self, profile: int | None) -> ExecutionContext:
        """A new context for a graph."""
        self.made += 1
        return self._make(profile)

    def keep(self, shape: BatchShape, run: CapturedRun) -> None:
        """Keep a graph. If there are too many, it replaces the graph of the coldest shape.

        The stream must be idle.
        """
        self.made += 1
        cooled = self._hot.heat(shape)
        if cooled is not None:
            self._release(cooled)
        self._captured[shape] = run

    def never_capture(self) -> None:
        """Stop capturing: this engine or this machine does not allow it."""
        self._limits = None

    def close(self) -> None:
        """Release everything; the stream must be idle."""
        for shape in list(self._captured):
            self._release(shape)
        for context in self._by_profile.values():
            context.close()
        self._by_profile.clear()

    def _release(self, shape: BatchShape) -> None:
        run = self._captured.pop(shape)
        run.graph.close()  # before the context that it was captured from
        run.context.close()
