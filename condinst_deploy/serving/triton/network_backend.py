"""The network as another model of the same server: a backend whose forward pass is a request."""

from collections.abc import Callable
from pathlib import Path
from typing import Self

from condinst_deploy.contract import ModelManifest, NetworkInputs, NetworkOutputs
from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.preprocessing.types import Inputs

Ask = Callable[[NetworkInputs], NetworkOutputs]


class NetworkBackend(Backend):
    """Preprocessing and postprocessing here, the network where `ask` sends it."""

    name = "triton"

    def __init__(self, manifest: ModelManifest, ask: Ask, largest_batch: int | None = None) -> None:
        self.manifest, self._ask = manifest, ask
        self.device = "cpu"  # outputs come back to the host
        self.largest_batch = largest_batch

    @classmethod
    def load(cls, path: Path, device: str = "auto") -> Self:
        """Refused: there is no file to load.

        Raises:
            BackendError: always.
        """
        raise BackendError(f"{path} cannot be loaded by this backend; its network is a model of a Triton server")

    def forward(self, inputs: Inputs) -> NetworkOutputs:
        """Run the network on one batch.

        Raises:
            BackendError: the server refused.
        """
        return self._ask(inputs.on_host())
