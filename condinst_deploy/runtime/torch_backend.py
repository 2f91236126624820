"""Backend `torch`: the reference model itself, from a checkpoint."""

from pathlib import Path
from typing import Self

import torch

from condinst_deploy.contract import NetworkInputs, NetworkOutputs
from condinst_deploy.errors import BackendError
from condinst_deploy.kernels.operations import kernels_run_on, operations_for
from condinst_deploy.model.checkpoints import LoadedModel, load_model
from condinst_deploy.model.condinst import CondInst, Instances
from condinst_deploy.runtime.backend import Backend, Outputs
from condinst_deploy.runtime.device_outputs import DeviceOutputs, on_host, to_device


class TorchBackend(Backend):
    """Runs the PyTorch reference model, the truth that other backends are compared with.

    On a GPU the two special operations are the fused kernels, and masks are made there.
    """

    name = "torch"

    def __init__(self, loaded: LoadedModel, device: torch.device) -> None:
        loaded.model.operations = operations_for(device)
        self._model: CondInst | None = loaded.model.to(device)
        self.manifest = loaded.manifest
        self.note = loaded.note
        self.device = str(device)

    @classmethod
    def load(cls, path: Path, device: str = "auto") -> Self:
        """Load a checkpoint (see `load_model`)."""
        chosen = torch_device(device)
        return cls(load_model(path), chosen)

    @property
    def model(self) -> CondInst:
        """The reference model.

        Raises:
            BackendError: it was closed.
        """
        if self._model is None:
            raise BackendError("this model was closed; load it again")
        return self._model

    def close(self) -> None:
        """Let go of the model and its memory."""
        self._model = None

    def forward(self, inputs: NetworkInputs) -> NetworkOutputs:
        """Run the network; the outputs come back to the host."""
        return NetworkOutputs(*on_host(*self._run(inputs)))

    def infer(self, inputs: NetworkInputs) -> Outputs:
        """Run the network; where the kernels run, the outputs stay on the device."""
        if not kernels_run_on(torch.device(self.device)):
            return self.forward(inputs)
        return DeviceOutputs.of(self._run(inputs))

    def synchronize(self) -> None:
        """Wait until all work given to the device is finished."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)

    def _run(self, inputs: NetworkInputs) -> Instances:
        device = torch.device(self.device)
        images, sizes = to_device(inputs.images, device), to_device(inputs.image_sizes, device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # float32 means float32 here
            outputs: Instances = self.model(images, sizes)
            return outputs


def torch_device(device: str) -> torch.device:
    """The device that a user's word means.

    Raises:
        BackendError: it is not a device, or not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as e:
        raise BackendError(f"device {device!r} is unknown; expected auto, cpu, cuda or cuda:N") from e
    if chosen.type not in ("cpu", "cuda"):
        raise BackendError(f"device {device!r} is not supported; expected auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise BackendError(
            f"device {device!r} was asked for; PyTorch sees {torch.cuda.device_count()} CUDA devices."
            " Use device='cpu', or check the driver with nvidia-smi"
        )
    return chosen
