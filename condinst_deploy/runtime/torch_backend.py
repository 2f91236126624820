"""Backend `torch`: the PyTorch reference model, from a checkpoint."""

from pathlib import Path
from typing import Self

import torch

from condinst_deploy.contract import NetworkOutputs
from condinst_deploy.errors import BackendError, ConfigError, DeviceError
from condinst_deploy.kernels.operations import kernels_run_on, operations_for
from condinst_deploy.model.checkpoints import LoadedModel, load_model
from condinst_deploy.model.condinst import CondInst, Instances
from condinst_deploy.runtime.backend import Outputs
from condinst_deploy.runtime.device_backend import DeviceBackend
from condinst_deploy.runtime.device_outputs import DeviceOutputs, on_host
from condinst_deploy.runtime.preprocessing.types import Inputs


class TorchBackend(DeviceBackend):
    """Runs the PyTorch reference model, with which other backends are compared.

    On a GPU with Triton, the two special operations are the fused kernels, and masks are made on the GPU.
    """

    name = "torch"

    def __init__(self, loaded: LoadedModel, device: torch.device) -> None:
        super().__init__(device)
        loaded.model.operations = operations_for(device)
        self._model: CondInst | None = loaded.model.to(device)
        self.manifest = loaded.manifest
        self.note = loaded.note

    @classmethod
    def load(cls, path: Path, device: str = "auto") -> Self:
        """Load a checkpoint (see `load_model`)."""
        chosen = torch_device(device)
        return cls(load_model(path), chosen)

    @property
    def model(self) -> CondInst:
        """The reference model.

        Raises:
            BackendError: the backend was closed.
        """
        if self._model is None:
            raise BackendError("this model was closed; load it again")
        return self._model

    def close(self) -> None:
        """Release the model and its memory."""
        self._model = None

    def forward(self, inputs: Inputs) -> Outputs:
        """Run the network. On a GPU with Triton the outputs stay on the device."""
        images, sizes = self._on_device(inputs).taken()
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # float32 means float32 here
            outputs: Instances = self.model(images, sizes)
        if kernels_run_on(self.torch_device):
            return DeviceOutputs.of(outputs)
        return NetworkOutputs(*on_host(*outputs))


def torch_device(device: str) -> torch.device:
    """Return the device that a user names.

    Raises:
        ConfigError: the name is unknown.
        DeviceError: PyTorch does not see the device.
    """
    if device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as e:
        raise ConfigError(f"device {device!r} is unknown; expected auto, cpu, cuda or cuda:N") from e
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"device {device!r} is not supported; expected auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device {device!r} was asked for; PyTorch sees {torch.cuda.device_count()} CUDA devices."
            " Use device='cpu', or check the driver with nvidia-smi"
        )
    # "cuda" means the first GPU in every backend, not the current one of the thread
    return torch.device("cuda", chosen.index or 0) if chosen.type == "cuda" else chosen
