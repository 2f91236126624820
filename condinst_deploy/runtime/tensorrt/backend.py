"""Backend `tensorrt`: an engine of either flavour, on the GPU that it was built for."""

from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch

from condinst_deploy.contract.engine_manifest import MODULES, EngineManifest, Flavour, read_engine
from condinst_deploy.errors import ArtifactError, BackendError
from condinst_deploy.kernels.operations import kernels_run_on
from condinst_deploy.runtime.backend import Outputs
from condinst_deploy.runtime.device_backend import DeviceBackend
from condinst_deploy.runtime.device_inputs import inputs_on
from condinst_deploy.runtime.preprocessing.types import Inputs
from condinst_deploy.runtime.tensorrt.context_pool import ContextPool
from condinst_deploy.runtime.tensorrt.execution_context import ExecutionContext
from condinst_deploy.runtime.tensorrt.plan import engine_from_plan
from condinst_deploy.runtime.tensorrt.shapes import BatchShape, largest_batch, profile_of
from condinst_deploy.runtime.torch_backend import torch_device

PACKAGES: dict[Flavour, str] = {"tensorrt": "tensorrt", "rtx": "tensorrt-rtx"}

KEPT_CONTEXTS = 4
"""Idle execution contexts that stay open: those of the last shapes, or of threads that run one shape."""


class TensorRtBackend(DeviceBackend):
    """Runs an engine. Threads may share the backend; each gets its own execution context."""

    name = "tensorrt"

    def __init__(self, engine: Any, manifest: EngineManifest, device: torch.device) -> None:
        super().__init__(device)
        self._engine = engine
        self.engine_manifest = manifest
        self.manifest = manifest.model
        self.largest_batch = largest_batch(manifest)
        self._contexts: ContextPool[BatchShape, ExecutionContext] = ContextPool(self._new_context, KEPT_CONTEXTS)

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
            logger = library.Logger(library.Logger.ERROR)
            engine = engine_from_plan(library, logger, plan, host_code=manifest.version_compatible)
        if engine is None:
            raise BackendError(f"the library cannot load {path}; its own message stands above")
        return cls(engine, manifest, chosen)

    def forward(self, inputs: Inputs) -> Outputs:
        """Start the network; the outputs stay on the GPU if Triton, which makes masks there, is installed.

        Raises:
            BackendError: no profile has the shape, the engine was closed, it could not run, or, without Triton, the
                mask logits are not finite.
        """
        batch, _, height, width = inputs.images.shape
        shape = BatchShape(batch, height, width)
        profile_of(self.engine_manifest, shape)  # before a context is made
        with self._contexts.context(shape) as context:
            outputs = context.run(inputs_on(inputs, self.torch_device))
        return outputs if kernels_run_on(self.torch_device) else outputs.on_host(precision=self.manifest.precision)

    @property
    def idle_contexts(self) -> list[ExecutionContext]:
        """The execution contexts that wait for a caller, used last at the end."""
        return self._contexts.idle

    def close(self) -> None:
        """Release contexts and buffers, then the engine."""
        self._contexts.close()
        self._engine = None

    def _new_context(self, shape: BatchShape) -> ExecutionContext:
        with torch.cuda.device(self.torch_device):
            return ExecutionContext(self._engine, self.engine_manifest, shape, self.torch_device)


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
