"""A slot of an engine: what one batch at a time runs in. A stream, memory, and execution contexts that share both."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from condinst_deploy.contract import INPUTS, OUTPUTS
from condinst_deploy.contract.engine_manifest import EngineManifest
from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.cuda.driver import CudaError
from condinst_deploy.runtime.cuda.gpu import Gpu, Graph, Stream
from condinst_deploy.runtime.cuda.gpu_batches import GpuInputs, GpuOutputs
from condinst_deploy.runtime.cuda.memory_pools import Block, GpuArray
from condinst_deploy.runtime.hot_shapes import HotLimits
from condinst_deploy.runtime.tensorrt.context_pool import CapturedRun, ContextPool, SlotMemory
from condinst_deploy.runtime.tensorrt.execution_context import ExecutionContext
from condinst_deploy.runtime.tensorrt.shapes import BatchShape, profile_of

GROWTH = 1.25
"""Growth factor of memory that is too small, so that rising shapes replace it only a few times."""

NewContext = Callable[[], Any]
"""Makes an execution context of the library, without activation memory of its own."""


@dataclass(frozen=True)
class ShapePlan:
    """Memory and tensors that a shape needs, queried from the library once."""

    profile: int | None
    tensors: dict[str, tuple[int, ...]]  # shape of each input and output
    activations: int  # bytes


class Slot:
    """Runs one batch after the other. One thread at a time uses it; it does not wait for the GPU."""

    def __init__(self, gpu: Gpu, manifest: EngineManifest, new_context: NewContext, limits: HotLimits | None) -> None:
        """`limits` None: no CUDA graphs."""
        self._gpu, self._manifest, self._new_context = gpu, manifest, new_context
        self._stream = Stream(gpu)
        self.contexts = ContextPool(self._context, limits)
        self._kinds = {tensor.name: np.dtype(tensor.dtype).name for tensor in manifest.tensors}
        self._plans: dict[BatchShape, ShapePlan] = {}
        self._memory: SlotMemory | None = None

    def run(self, inputs: GpuInputs) -> GpuOutputs:
        """Start the network. The outputs are copies, so the next run may follow at once.

        Raises:
            BackendError: the engine does not take the shape, or could not run.
        """
        batch, _, height, width = inputs.images.shape
        shape = BatchShape(batch, height, width)
        plan = self._plan(shape)
        captured = self.contexts.captured(shape)
        wanted = self.contexts.wants_graph(shape)  # counts the run, too
        memory = self._memory_for(plan) if captured is None else captured.memory
        arrays = {name: memory.tensors[name].array(sides, self._kinds[name]) for name, sides in plan.tensors.items()}
        self._stream.wait(inputs.ready)
        for name, source in zip(INPUTS, (inputs.images, inputs.image_sizes), strict=True):
            self._stream.copy(arrays[name], source)
        if captured is not None:
            captured.graph.launch(self._stream)
        elif not (wanted and self._run_and_capture(shape, plan, memory)):
            self._run(self.contexts.of_profile(plan.profile), shape, memory)
        return self._outputs([arrays[name] for name in OUTPUTS], inputs)

    def synchronize(self) -> None:
        """Wait for all runs."""
        self._stream.synchronize()

    def close(self) -> None:
        """Wait for the stream, then release graphs, contexts, memory and the stream, in this order."""
        self._stream.synchronize()
        self.contexts.close()
        self._memory = None
        self._stream.close()

    def _context(self, profile: int | None) -> ExecutionContext:
        context = self._new_context()
        if context is None:
            raise BackendError("TensorRT could not create an execution context; it printed the reason above")
        return ExecutionContext(context, profile, self._stream)

    def _plan(self, shape: BatchShape) -> ShapePlan:
        if shape not in self._plans:
            profile = profile_of(self._manifest, shape)
            context = self.contexts.of_profile(profile)
            context.reshape(shape)
            self._plans[shape] = ShapePlan(profile, context.tensor_shapes(list(self._kinds)), context.memory_needed)
        return self._plans[shape]

    def _memory_for(self, plan: ShapePlan) -> SlotMemory:
        """Return memory that is large enough. Graphs keep what was too small, because they hold its addresses."""
        sizes = {n: int(np.prod(s)) * np.dtype(self._kinds[n]).itemsize for n, s in plan.tensors.items()}
        old = self._memory
        if old is not None and _fits(old, plan.activations, sizes):
            return old
        tensors = {} if old is None else dict(old.tensors)
        for name, size in sizes.items():
            if name not in tensors or tensors[name].size < size:
                tensors[name] = self._larger(tensors.pop(name, None), size)
        activations = None if old is None else old.activations
        if activations is None or activations.size < plan.activations:
            activations = self._larger(activations, plan.activations)
        self._stream.synchronize()  # what is too small may go back to the pool now
        self._memory = SlotMemory(activations, tensors)
        return self._memory

    def _larger(self, old: Block | None, size: int) -> Block:
        least = 0 if old is None else int(GROWTH * old.size)
        return self._gpu.memory.taken(max(size, least), self._stream)

    def _run(self, context: ExecutionContext, shape: BatchShape, memory: SlotMemory) -> None:
        context.reshape(shape)
        context.bind(memory.activations, memory.tensors)
        if not context.run():
            raise BackendError("TensorRT could not run the engine; it printed the reason above")

    def _run_and_capture(self, shape: BatchShape, plan: ShapePlan, memory: SlotMemory) -> bool:
        """Run in a context of the shape's own, which prepares it, and record its next run.

        Returns:
            False if there is no such context, because memory is short; nothing has run then.
        """
        try:
            context = self.contexts.for_capture(plan.profile)
        except BackendError as e:
            if isinstance(e, CudaError) and e.sticky:
                raise
            self.contexts.never_capture()
            return False
        graph: Graph | None = None
        try:
            with self._stream.settled():
                self._run(context, shape, memory)
                graph = self._stream.captured(context.run) if context.capturable() else None
                self._stream.synchronize()  # a context or a graph may be released now
        except BaseException:
            context.close()  # it would live as long as the error
            raise
        if graph is None:
            context.close()
            self.contexts.never_capture()
        else:
            self.contexts.keep(shape, CapturedRun(graph, context, memory))
        return True

    def _outputs(self, own: list[GpuArray], inputs: GpuInputs) -> GpuOutputs:
        copies = []
        for array in own:
            copies.append(self._gpu.memory.array(array.shape, array.dtype.name, self._stream))
            self._stream.copy(copies[-1], array)
        done = self._stream.record()
        for used in (*copies, inputs.images, inputs.image_sizes):
            used.owner.used_until(done)
        return GpuOutputs(self._gpu, done, *copies)


def _fits(memory: SlotMemory, activations: int, tensors: dict[str, int]) -> bool:
    enough = all(name in memory.tensors and memory.tensors[name].size >= size for name, size in tensors.items())
    return enough and memory.activations.size >= activations
