"""Backend `torch`: a checkpoint, as the PyTorch reference model in float32 or as a network in half precision."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from condinst_deploy.contract import NetworkOutputs
from condinst_deploy.contract.model_settings import Selection
from condinst_deploy.contract.precision import PRECISIONS, Precision
from condinst_deploy.errors import BackendError, DeviceError
from condinst_deploy.kernels.operations import kernels_run_on, missing_for_kernels, operations_for
from condinst_deploy.model.checkpoints import LoadedModel, load_model, with_selection
from condinst_deploy.model.condinst import CondInst, Instances
from condinst_deploy.model.half import HalfNetwork
from condinst_deploy.runtime.backend import Outputs, closed_error
from condinst_deploy.runtime.device_backend import DeviceBackend
from condinst_deploy.runtime.device_outputs import DeviceOutputs, on_host
from condinst_deploy.runtime.devices import parsed_device
from condinst_deploy.runtime.preprocessing.types import Inputs
from condinst_deploy.runtime.torch_graphs import Capturer, GraphedNetwork, capturer_for
from condinst_deploy.shown_text import told_apart

SMALLEST_BFLOAT16 = (8, 0)
"""Compute capability from which on GPUs have bfloat16."""


class TorchBackend(DeviceBackend):
    """Runs a checkpoint in PyTorch.

    In float32 it is the reference model, with which other backends are compared. In half precision it is the network
    with fixed slots, with BatchNorm folded into convolutions; on a GPU, frequent shapes run as CUDA graphs. On a GPU
    with Triton, the two special operations are the fused kernels, and masks are made on the GPU.
    """

    name = "torch"

    def __init__(
        self,
        loaded: LoadedModel,
        device: torch.device,
        precision: Precision = "float32",
        capturer: Capturer | None = None,
    ) -> None:
        """`capturer` makes CUDA graphs of a network in half precision; None: no graphs."""
        super().__init__(device)
        loaded.model.operations = operations_for(device)
        self._model: CondInst | None = loaded.model.to(device)
        self.manifest = replace(loaded.manifest, precision=precision)
        self.note = "; ".join(filter(None, (loaded.note, missing_for_kernels(device))))
        self._half: GraphedNetwork | None = None
        if precision != "float32":
            network = HalfNetwork(loaded.model, loaded.model.operations, precision).to(device).eval()
            self._half = GraphedNetwork(network, capturer)
        elif device.type == "cuda":
            # float32 means float32 here. Set once: a guard around each run is not safe with threads
            torch.backends.cudnn.allow_tf32 = False

    @classmethod
    def load(
        cls,
        path: Path,
        device: str = "auto",
        precision: Precision = "float32",
        *,
        score_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Self:
        """Load a checkpoint (see `load_model`).

        A lower `score_threshold` and a higher `max_detections` than the checkpoint's own replace them; limits on the
        other side of its own are for a filter of the results (`Selection.widened`).
        """
        chosen = torch_device(device)
        check_precision(precision, chosen)
        loaded = load_model(path)
        own = loaded.manifest.selection
        if (asked := own.widened(score_threshold, max_detections)) != own:
            manifest = with_selection(loaded.model, loaded.manifest, asked)
            loaded = LoadedModel(loaded.model, manifest, f"{loaded.note}; the options replace {_replaced(own, asked)}")
        return cls(loaded, chosen, precision, capturer_for(chosen))

    @property
    def model(self) -> CondInst:
        """The model; in half precision its convolutions are converted.

        Raises:
            BackendError: the backend was closed.
        """
        if self._model is None:
            raise closed_error()
        return self._model

    def close(self) -> None:
        """Release the model and its memory."""
        if self._half is not None:
            self._half.close()
        self._model = self._half = None

    def forward(self, inputs: Inputs) -> Outputs:
        """Run the network. On a GPU with Triton the outputs stay on the device.

        Raises:
            BackendError: the backend was closed, or the GPU failed for good, now or earlier.
        """
        model, half = self.model, self._half  # another thread may close the backend
        with self._guard.guarded():
            images, sizes = self._on_device(inputs).taken()
            outputs = self._run(model if half is None else half, images, sizes)
            if kernels_run_on(self.torch_device):
                return DeviceOutputs.of(outputs)
            return NetworkOutputs(*on_host(*outputs))

    @staticmethod
    @torch.no_grad()
    def _run(network: Callable[[Tensor, Tensor], Instances], images: Tensor, sizes: Tensor) -> Instances:
        outputs = network(images, sizes)
        return outputs._replace(
            num_detections=outputs.num_detections.to(torch.int32), labels=outputs.labels.to(torch.int32)
        )


def _replaced(own: Selection, asked: Selection) -> str:
    """Which limits of a checkpoint are not its own any more, in words."""
    limits = (
        ("the score threshold", own.lowest_score, asked.lowest_score),
        ("the maximum of detections", own.max_detections, asked.max_detections),
    )
    changed = ((name, *told_apart(before, now)) for name, before, now in limits if before != now)
    return " and ".join(f"{name} {before} by {now}" for name, before, now in changed)


def torch_device(device: str) -> torch.device:
    """Return the device that a user names.

    Raises:
        ConfigError: the name is unknown.
        DeviceError: PyTorch does not see the device.
    """
    chosen = parsed_device(device, gpu_usable=torch.cuda.is_available())
    if chosen.kind == "cuda" and chosen.index >= torch.cuda.device_count():
        raise DeviceError(
            f"device {device!r} was asked for; PyTorch sees {torch.cuda.device_count()} CUDA devices."
            " Use device='cpu', or check the driver with nvidia-smi"
        )
    return torch.device(str(chosen))


def check_precision(precision: str, device: torch.device) -> None:
    """Check that a precision is known, and that a GPU has it.

    Raises:
        BackendError: it is not, or has not.
    """
    if precision not in PRECISIONS:
        raise BackendError(f"precision {precision!r} is unknown; expected one of {', '.join(PRECISIONS)}")
    if precision == "bfloat16" and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < SMALLEST_BFLOAT16:
            raise BackendError(
                f"the GPU has compute capability {capability[0]}.{capability[1]}, and bfloat16 needs 8.0;"
                " use precision='float16'"
            )
