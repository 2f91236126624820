"""Base of the backends whose network reads tensors on a device."""

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np
import torch

from condinst_deploy.contract import ImageGeometry, InstanceDetections
from condinst_deploy.errors import BackendError
from condinst_deploy.kernels.host_memory import to_device
from condinst_deploy.runtime.backend import Backend, Outputs
from condinst_deploy.runtime.device_inputs import DecodedInputs, DeviceInputs, DeviceWriter, collated, inputs_on
from condinst_deploy.runtime.device_outputs import on_host, side_stream
from condinst_deploy.runtime.gpu_failure import TorchGuard
from condinst_deploy.runtime.gpu_probe import PROBE, check_returned
from condinst_deploy.runtime.postprocess import ResultFilter
from condinst_deploy.runtime.preprocessing.types import Inputs
from condinst_deploy.runtime.torch_streams import own_stream


class DeviceBackend(Backend):
    """A backend on a PyTorch device.

    Prepared images are written into tensors: pinned memory for a GPU. Batches are copied to the GPU on a stream of
    their own while the network runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = str(device)
        self.torch_device = _indexed(device)
        self.input_writer = DeviceWriter(self.torch_device)
        self._guard = TorchGuard()

    def collate(self, parts: Sequence[Inputs]) -> DeviceInputs:
        """Put prepared images together on the device."""
        with self._guard.guarded():
            tensors = [
                part if isinstance(part, DeviceInputs | DecodedInputs) else self._on_device(part) for part in parts
            ]
            return collated(tensors, self.static_batch, self.torch_device, self._upload_stream)

    def postprocess(
        self, outputs: Outputs, geometries: Sequence[ImageGeometry], result_filter: ResultFilter | None = None
    ) -> list[InstanceDetections]:
        """Turn outputs of `forward` into detections; see `Backend.postprocess`."""
        with self._guard.guarded():
            return super().postprocess(outputs, geometries, result_filter)

    def synchronize(self) -> None:
        """Wait until the device has finished all work."""
        if self.torch_device.type == "cuda":
            with self._guard.guarded():
                torch.cuda.synchronize(self.torch_device)

    def check_health(self) -> None:
        """Send some bytes to the GPU and back; see `Backend.check_health`.

        Raises:
            BackendError: the GPU does not work.
        """
        if self.torch_device.type != "cuda":
            return
        probe = np.frombuffer(PROBE, dtype=np.uint8).copy()  # PyTorch wants an array that it may write to
        try:
            with self._guard.guarded(), side_stream(self.torch_device):
                (found,) = on_host(to_device(probe, self.torch_device))
        except RuntimeError as e:  # an unknown one: the GPU does not do the least, so it counts as one that stays
            reason = str(e).partition("\n")[0]
            raise BackendError(f"the GPU does not work in this process any more ({reason}); start a new process") from e
        check_returned(found.tobytes())

    def thread_initializer(self) -> Callable[[], None] | None:
        """Return a function that makes the caller's GPU current in another thread; CUDA keeps one per thread."""
        if self.torch_device.type != "cuda":
            return None
        return partial(torch.cuda.set_device, torch.cuda.current_device())

    def _on_device(self, inputs: Inputs) -> DeviceInputs:
        return inputs_on(inputs if isinstance(inputs, DeviceInputs) else inputs.on_host(), self.torch_device)

    @cached_property
    def _upload_stream(self) -> torch.cuda.Stream | None:
        return own_stream(self.torch_device) if self.torch_device.type == "cuda" else None


def _indexed(device: torch.device) -> torch.device:
    """Return "cuda" with the number of the current GPU, as tensors on it have it."""
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device
