"""One execution context of an engine at one shape: its stream, its device buffers, its CUDA graph.

Memory and streams are PyTorch's, so that both libraries share one allocator. A CUDA graph holds the addresses of the
buffers, so a context keeps its shape.
"""

from typing import Any

import torch

from condinst_deploy.contract import INPUTS, OUTPUTS
from condinst_deploy.contract.engine_manifest import EngineManifest
from condinst_deploy.errors import BackendError
from condinst_deploy.model.condinst import Instances
from condinst_deploy.runtime.device_inputs import DeviceInputs
from condinst_deploy.runtime.device_outputs import DeviceOutputs
from condinst_deploy.runtime.tensorrt.cuda_graph import ReplayedRun
from condinst_deploy.runtime.tensorrt.shapes import BatchShape, profile_of


class ExecutionContext:
    """Runs batches of one shape. Close it when it is idle."""

    def __init__(self, engine: Any, manifest: EngineManifest, shape: BatchShape, device: torch.device) -> None:
        """Create the context and all its memory.

        Raises:
            BackendError: no profile has the shape, or the library refuses it.
        """
        profile = profile_of(manifest, shape)
        self._stream = torch.cuda.Stream(device)
        self._context: Any = engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"no execution context for {shape}: the GPU has not enough free memory")
        self._choose(profile, shape)
        shapes = {t.name: tuple(self._context.get_tensor_shape(t.name)) for t in manifest.tensors}
        kinds = {t.name: getattr(torch, t.dtype) for t in manifest.tensors}
        # allocate on the context's own stream, because the last user of memory of another stream may still be running
        with torch.cuda.stream(self._stream):
            self._device = {n: torch.empty(s, dtype=kinds[n], device=device) for n, s in shapes.items()}
        for name, buffer in self._device.items():
            self._context.set_tensor_address(name, buffer.data_ptr())
        self._execution = ReplayedRun(self._execute, self._capturable, self._stream)

    @property
    def captured(self) -> bool:
        """Whether runs are replays of a CUDA graph."""
        return self._execution.captured

    def run(self, inputs: DeviceInputs) -> DeviceOutputs:
        """Start a run on inputs of the device, without waiting for it. The outputs are copies on the device.

        Raises:
            BackendError: the library could not run the engine.
        """
        with torch.cuda.stream(self._stream):
            for name, values in zip(INPUTS, inputs.taken(), strict=True):
                self._device[name].copy_(values, non_blocking=True)
            if not self._execution.run():
                raise BackendError("TensorRT could not run the engine; its own message stands above")
            # the next run writes into the buffers, behind these copies in the stream
            return DeviceOutputs.of(Instances(*(self._device[name].clone() for name in OUTPUTS)))

    def close(self) -> None:
        """Wait for the stream, then release graph, context and buffers, in this order."""
        self._stream.synchronize()
        self._execution.release()
        self._context = None
        self._device = {}

    def _choose(self, profile: int | None, shape: BatchShape) -> None:
        handle = self._stream.cuda_stream
        if profile is None:
            return
        if not self._context.set_optimization_profile_async(profile, handle):
            raise BackendError(f"the engine refuses profile {profile}")
        for name, sides in shape.inputs.items():
            if not self._context.set_input_shape(name, sides):
                raise BackendError(f"the engine refuses {name} of shape {sides}")

    def _execute(self) -> bool:
        return bool(self._context.execute_async_v3(self._stream.cuda_stream))

    def _capturable(self) -> bool:
        """Whether the library allows a capture now: of what it still compiles, it does not."""
        capturable = getattr(self._context, "is_stream_capturable", None)
        return capturable is None or bool(capturable(self._stream.cuda_stream))
