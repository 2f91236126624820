"""Backend `tensorrt`: an engine of either builder, on the GPU that it was built for. It does not need PyTorch."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from condinst_deploy.contract import ImageGeometry, InstanceDetections
from condinst_deploy.contract.engine_manifest import MODULES, Builder, EngineManifest, install_hint, read_engine
from condinst_deploy.errors import ArtifactError, BackendError, DeviceError
from condinst_deploy.runtime.backend import Backend, Outputs
from condinst_deploy.runtime.batching import rounded_batch
from condinst_deploy.runtime.cuda.gpu import Gpu, shared_gpu
from condinst_deploy.runtime.cuda.gpu_batches import GpuInputs, GpuOutputs, Pinned
from condinst_deploy.runtime.cuda.mask_runs import detections_from_gpu
from condinst_deploy.runtime.devices import driver_present, parsed_device
from condinst_deploy.runtime.gpu_uploads import Uploads
from condinst_deploy.runtime.postprocess import ResultFilter
from condinst_deploy.runtime.preprocessing.types import Inputs
from condinst_deploy.runtime.tensorrt.engine import Engine
from condinst_deploy.runtime.tensorrt.plan import engine_from_plan
from condinst_deploy.runtime.tensorrt.shapes import BatchShape, largest_batch, profile_of, takes
from condinst_deploy.runtime.tensorrt.slot import Slot
from condinst_deploy.runtime.tensorrt.slot_pool import SlotPool

SLOTS = 1
"""Batches that are given to the GPU side by side. One fills it; each further one takes as much memory again."""


class TensorRtBackend(Backend):
    """Runs an engine. Threads may share the backend: they give batches to the GPU in turn."""

    name = "tensorrt"

    def __init__(self, engine: Engine, manifest: EngineManifest, gpu: Gpu, device: str = "cuda:0") -> None:
        self._engine, self.gpu = engine, gpu
        self.device = device
        self.engine_manifest = manifest
        self.manifest = manifest.model
        self.largest_batch = largest_batch(manifest)
        self._uploads = Uploads(gpu)
        self.input_writer = self._uploads.writer
        self.slots = SlotPool(lambda: Slot(gpu, manifest, engine.context, engine.graph_limits), SLOTS)
        self._closed = False

    @classmethod
    def load(cls, path: Path, device: str = "auto") -> Self:
        """Load an engine with the manifest beside it, and check that this machine can run it."""
        plan, manifest = read_engine(path)
        chosen = parsed_device(device, gpu_usable=driver_present())
        if chosen.kind != "cuda":
            raise DeviceError(
                f"{path} is an engine and needs an NVIDIA GPU, and device={device!r} means cpu here;"
                " run the exported ONNX file on a CPU instead"
            )
        library, gpu = runtime_library(manifest.flavour), shared_gpu(chosen.index)
        with gpu.current():
            _check_loadable(manifest, library, gpu, path)
            logger = library.Logger(library.Logger.ERROR)
            loaded = engine_from_plan(library, logger, plan, host_code=manifest.version_compatible)
            if loaded is None:
                raise BackendError(f"TensorRT cannot load {path}; it printed the reason above")
            engine = Engine(library, loaded, manifest, path)
        try:
            return cls(engine, manifest, gpu, str(chosen))
        except BaseException:  # there is no memory for the backend's own stream
            engine.close()
            raise

    def collate(self, parts: Sequence[Inputs]) -> GpuInputs:
        """Start to copy prepared images to the GPU; partial batches are filled up with blank images."""
        pinned = [self._uploads.pinned(part) for part in parts]
        return self._uploads.started(pinned, self._filled(pinned))

    def forward(self, inputs: Inputs) -> Outputs:
        """Start the network; the outputs stay on the GPU.

        Raises:
            BackendError: no profile has the shape, the engine was closed, or it could not run.
        """
        shape = inputs.images.shape if isinstance(inputs, GpuInputs) else inputs.on_host().images.shape
        profile_of(self.engine_manifest, BatchShape(shape[0], *shape[2:]))  # before memory or a context is made
        with self.gpu.current(), self.slots.slot() as slot:
            outputs = slot.run(self._uploads.on_gpu(inputs))
            self._engine.ran()
        return outputs

    def postprocess(
        self, outputs: Outputs, geometries: Sequence[ImageGeometry], result_filter: ResultFilter | None = None
    ) -> list[InstanceDetections]:
        """Turn outputs of `forward` into detections in original pixels."""
        if isinstance(outputs, GpuOutputs):
            return detections_from_gpu(outputs, geometries, self.manifest, result_filter or ResultFilter())
        return super().postprocess(outputs, geometries, result_filter)

    def synchronize(self) -> None:
        """Wait until the GPU has finished the uploads and all runs."""
        with self.gpu.current():
            self._uploads.synchronize()
            for slot in self.slots.idle():
                slot.synchronize()

    def check_health(self) -> None:
        """See that the GPU still works; see `Backend.check_health`."""
        self.gpu.check()

    def close(self) -> None:
        """Release contexts and buffers, then the engine. After an error that stays nothing can be released."""
        if self._closed:
            return
        self._closed = True
        if self.gpu.driver.failure is not None:
            return
        with self.gpu.current():
            self.slots.close()
            self._uploads.close()
            self._engine.close()
        self.gpu.release_idle()

    def _filled(self, parts: Sequence[Pinned]) -> int:
        """Images of the batch with the blank ones."""
        if self.static_batch is not None:
            return self.static_batch
        height, width = parts[0].shape[2:]
        count = sum(part.shape[0] for part in parts)
        filled = rounded_batch(count, self.largest_batch)
        return filled if takes(self.engine_manifest, BatchShape(filled, height, width)) else count


def runtime_library(builder: Builder) -> Any:
    """The library that runs engines of a builder.

    Raises:
        BackendError: it is not installed.
    """
    try:
        module = import_module(MODULES[builder])
    except (ImportError, OSError) as e:
        raise BackendError(
            f"the engine is of the flavour {builder}, whose library is not installed ({e}): {install_hint(builder)}"
        ) from e
    if not hasattr(module, "Runtime"):  # packages of type stubs leave a folder of that name
        raise BackendError(f"{MODULES[builder]} is there without its library: {install_hint(builder)}")
    return module


def _check_loadable(manifest: EngineManifest, library: Any, gpu: Gpu, path: Path) -> None:
    major, minor = gpu.driver.capability()
    try:
        manifest.check_loadable(manifest.flavour, library.__version__, f"{major}{minor}")
    except ArtifactError as e:
        raise ArtifactError(f"{path}: {e}") from e
    if manifest.weights_stripped:
        raise ArtifactError(f"{path} has no weights (--strip-weights); refit it, or build it without that option")
