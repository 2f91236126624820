"""One execution context of an engine at one shape: its stream, its buffers on both sides, its CUDA graph.

Device memory and streams are PyTorch's, so that both share one allocator. A CUDA graph holds a context's addresses,
so a context keeps one shape for life.
"""

from typing import Any

import torch

from condinst_deploy.contract import INPUTS, OUTPUTS, NetworkInputs
from condinst_deploy.contract.engine_manifest import EngineManifest
from condinst_deploy.errors import BackendError
from condinst_deploy.model.condinst import Instances
from condinst_deploy.runtime.device_outputs import DeviceOutputs
from condinst_deploy.runtime.tensorrt.cuda_graph import ReplayedRun
from condinst_deploy.runtime.tensorrt.shapes import BatchShape, profile_of


class ExecutionContext:
    """Runs batches of one shape. Close it when it is idle."""

    def __init__(self, engine: Any, manifest: EngineManifest, shape: BatchShape, device: torch.device) -> None:
        """Prepare a context and all its memory.

        Raises:
            BackendError: the shape lies outside every profile, or the library refuses it.
        """
        profile = profile_of(manifest, shape)
        self._stream = torch.cuda.Stream(device)
        self._context: Any = engine.create_execution_context()
        if self._context is None:
            raise BackendError(f"no execution context for {shape}: the GPU has not enough free memory")
        self._choose(profile, shape)
        shapes = {t.name: tuple(self._context.get_tensor_shape(t.name)) for t in manifest.tensors}
        kinds = {t.name: getattr(torch, t.dtype) for t in manifest.tensors}
        # allocate on the context's own stream: on another one the memory's last user may still be running
        with torch.cuda.stream(self._stream):
            self._device = {n: torch.empty(s, dtype=kinds[n], device=device) for n, s in shapes.items()}
            self._pinned = {n: torch.empty(shapes[n], dtype=kinds[n], pin_memory=True) for n in INPUTS}
        self._copied: torch.cuda.Event | None = None  # when the pinned inputs may be written again
        for name, buffer in self._device.items():
            self._context.set_tensor_address(name, buffer.data_ptr())
        self._execution = ReplayedRun(self._execute, self._capturable, self._stream)

    @property
    def captured(self) -> bool:
        """Whether runs are replays of a CUDA graph."""
        return self._execution.captured

    def run(self, inputs: NetworkInputs) -> DeviceOutputs:
        """Copy in and run, without waiting for it; the outputs are copies on the device.

        Raises:
            BackendError: the library could not run the engine.
        """
        if self._copied is not None:
            self._copied.synchronize()
        with torch.cuda.stream(self._stream):
            for name, values in inputs._asdict().items():
                self._pinned[name].copy_(torch.from_numpy(values))
                self._device[name].copy_(self._pinned[name], non_blocking=True)
            self._copied = self._stream.record_event()
            if not self._execution.run():
                raise BackendError("TensorRT could not run the engine; its own message stands above")
            # the buffers belong to the next run, which stands behind these copies in the stream
            return DeviceOutputs.of(Instances(*(self._device[name].clone() for name in OUTPUTS)))

    def close(self) -> None:
        """Wait for the stream, then release graph, context and buffers, in this order."""
        self._stream.synchronize()
        self._execution.release()
        self._context = None
        self._device, self._pinned = {}, {}

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
