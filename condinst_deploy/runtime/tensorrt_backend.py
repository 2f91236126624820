"""Backend `tensorrt`: an engine of either flavour, on the GPU that it was built for."""

from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch

from condinst_deploy.contract import NetworkInputs, NetworkOutputs
from condinst_deploy.engine_manifest import MODULES, EngineManifest, Flavour, read_engine
from condinst_deploy.errors import ArtifactError, BackendError
from condinst_deploy.kernels.operations import kernels_run_on
from condinst_deploy.runtime.backend import Backend, Outputs
from condinst_deploy.runtime.device_outputs import DeviceOutputs
from condinst_deploy.runtime.engine_lane import EngineLane
from condinst_deploy.runtime.engine_shapes import BatchShape, largest_batch, profile_of
from condinst_deploy.runtime.lane_pool import LanePool
from condinst_deploy.runtime.torch_backend import torch_device

PACKAGES: dict[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx"}

KEPT_LANES = 4
"""Idle contexts that stay open: shapes seen last, or threads that run one shape."""


class TensorRtBackend(Backend):
    """Runs an engine; threads may share one, each gets a context of its own."""

    name = "tensorrt"

    def __init__(self, engine: Any, manifest: EngineManifest, device: torch.device) -> None:
        self._engine = engine
        self.engine_manifest = manifest
        self.manifest = manifest.model
        self.device = str(device)
        self.largest_batch = largest_batch(manifest)
        self._lanes: LanePool[BatchShape, EngineLane] = LanePool(self._new_lane, KEPT_LANES)

    @classmethod
    def load(cls, path: Path, device: str = "auto") -> Self:
        """Load an engine with the manifest beside it, and check that this machine can run it."""
        plan, manifest = read_engine(path)
        chosen = _gpu(path, device)
        library = runtime_library(manifest.flavour)
        major, minor = torch.cuda.get_device_capability(chosen)
        try:
            manifest.check_loadable(manifest.flavour, library.__version__, f"{major}{minor}")
        except ArtifactError as e:
            raise ArtifactError(f"{path}: {e}") from e
        if manifest.weights_stripped:
            raise ArtifactError(f"{path} has no weights (--strip-weights); refit it, or build it without that option")
        with torch.cuda.device(chosen):
            runtime = library.Runtime(library.Logger(library.Logger.ERROR))
            # engines that run with later versions carry the code of their own, which is not run unless allowed
            if manifest.version_compatible:
                runtime.engine_host_code_allowed = True
            engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(f"the library cannot load {path}; its own message stands above")
        return cls(engine, manifest, chosen)

    def forward(self, inputs: NetworkInputs) -> NetworkOutputs:
        """Run the network; of the mask logits only as many slots come back as the fullest picture uses.

        Raises:
            BackendError: as `infer`, or the mask logits are not finite.
        """
        return self._run(inputs).on_host(precision=self.manifest.precision)

    def infer(self, inputs: NetworkInputs) -> Outputs:
        """Give the network a batch; its outputs stay on the GPU, where masks are made if Triton is installed.

        Raises:
            BackendError: the shape lies outside every profile, the engine was closed, or it could not run.
        """
        return self._run(inputs) if kernels_run_on(torch.device(self.device)) else self.forward(inputs)

    def synchronize(self) -> None:
        """Wait until all work given to the GPU is finished."""
        torch.cuda.synchronize(self.device)

    def _run(self, inputs: NetworkInputs) -> DeviceOutputs:
        batch, _, height, width = inputs.images.shape
        shape = BatchShape(batch, height, width)
        profile_of(self.engine_manifest, shape)  # before a lane is made
        with self._lanes.lane(shape) as lane:
            return lane.run(inputs)

    def close(self) -> None:
        """Release contexts and buffers, then the engine."""
        self._lanes.close()
        self._engine = None

    def _new_lane(self, shape: BatchShape) -> EngineLane:
        device = torch.device(self.device)
        with torch.cuda.device(device):
            return EngineLane(self._engine, self.engine_manifest, shape, device)


def runtime_library(flavour: Flavour) -> Any:
    """The library that runs engines of a flavour.

    Raises:
        BackendError: it is not installed.
    """
    try:
        module = import_module(MODULES[flavour])
    except (ImportError, OSError) as e:
        raise BackendError(
            f"the engine is of the flavour {flavour}, whose library is not installed ({e}):"
            f" pip install {PACKAGES[flavour]}"
        ) from e
    if not hasattr(module, "Runtime"):  # packages of type stubs leave a folder of that name
        raise BackendError(f"{MODULES[flavour]} is there without its library: pip install {PACKAGES[flavour]}")
    return module


def _gpu(path: Path, device: str) -> torch.device:
    chosen = torch_device(device)
    if chosen.type != "cuda":
        raise BackendError(
            f"{path} is an engine and needs an NVIDIA GPU, and device={device!r} means {chosen.type} here;"
            " run the exported ONNX file on a CPU instead"
        )
    return torch.device("cuda", chosen.index or 0)
