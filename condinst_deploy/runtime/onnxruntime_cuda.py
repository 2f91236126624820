"""Runs of ONNX Runtime's CUDA provider whose inputs and outputs stay on the GPU.

They are bound to memory of the driver (`runtime/cuda/`), as for engines, and the provider works on a stream of ours
(`user_compute_stream`). So it waits for uploads on the GPU, and masks are found there. CUDA graphs are not used: ONNX
Runtime refuses them for a graph with a Loop, and SelectInstances is one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Self

from condinst_deploy.contract import INPUTS, OUTPUTS, ImageGeometry, InstanceDetections, ModelManifest
from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.backend import Outputs, closed_error
from condinst_deploy.runtime.cuda.gpu import Gpu, Stream, shared_gpu
from condinst_deploy.runtime.cuda.gpu_batches import GpuInputs, GpuOutputs
from condinst_deploy.runtime.cuda.mask_runs import detections_from_gpu
from condinst_deploy.runtime.cuda.memory_pools import GpuArray
from condinst_deploy.runtime.gpu_uploads import Uploads
from condinst_deploy.runtime.onnxruntime_session import run_bound
from condinst_deploy.runtime.postprocess import ResultFilter
from condinst_deploy.runtime.preprocessing.types import Inputs

LOGITS = {"tensor(float)": "float32", "tensor(float16)": "float16"}
"""Type of a graph's mask logits -> type of the array."""


@dataclass(frozen=True)
class GpuPlace:
    """Where a session runs. Its `user_compute_stream` must be there before it is opened, and longer than it."""

    gpu: Gpu
    index: int  # number of the GPU
    stream: Stream

    @classmethod
    def of(cls, index: int) -> Self:
        """A stream on the GPU of this number.

        Raises:
            BackendError: there is no such GPU, or bindings or driver are missing.
        """
        gpu = shared_gpu(index)
        with gpu.current():
            return cls(gpu, index, Stream(gpu))

    def close(self) -> None:
        """Wait for all work, then release the stream."""
        with self.gpu.current():
            self.stream.close()


class CudaRuns:
    """A session on a GPU, with its stream. Threads may share it: they give their runs to the GPU in turn.

    A run returns when its last node was given to the GPU. The graph has a Loop, so the host waits inside for its
    selection; what follows is not waited for.
    """

    def __init__(self, place: GpuPlace, session: Any, manifest: ModelManifest, file: str) -> None:
        """`session` is ONNX Runtime's; `file` is what messages call its file."""
        self._place, self._gpu, self._stream, self._file = place, place.gpu, place.stream, file
        self._session: Any = session
        self._manifest = manifest
        self._logits = LOGITS[session.get_outputs()[OUTPUTS.index("mask_logits")].type]
        self._lock = Lock()
        self.uploads = Uploads(place.gpu)

    def collate(self, parts: Sequence[Inputs], batch: int | None) -> GpuInputs:
        """Start to copy prepared images to the GPU.

        Args:
            parts: inputs of equal padded shape.
            batch: images of the batch; None: as many as given.
        """
        pinned = [self.uploads.pinned(part) for part in parts]
        given = sum(part.shape[0] for part in pinned)
        return self.uploads.started(pinned, max(given, batch or 0))

    def run(self, inputs: Inputs) -> GpuOutputs:
        """Run the network; the outputs stay on the GPU, and no later run changes them.

        Raises:
            BackendError: ONNX Runtime or the GPU fails, or the model was closed.
            Stopped: the run was stopped.
        """
        batch = self.uploads.on_gpu(inputs)
        with self._lock, self._gpu.current():
            if self._session is None:
                raise closed_error()
            outputs = self._room_for(batch)
            binding = self._session.io_binding()
            given = dict(zip(INPUTS, (batch.images, batch.image_sizes), strict=True))
            for bind, arrays in ((binding.bind_input, given), (binding.bind_output, outputs)):
                for name, array in arrays.items():
                    bind(name, "cuda", self._place.index, array.dtype.type, list(array.shape), array.address)
            with self._stream.settled():  # nodes of a run that failed may still work
                self._stream.wait(batch.ready)
                run_bound(self._session, binding, self._file)
                done = self._stream.record()
            for array in (*given.values(), *outputs.values()):
                array.owner.used_until(done)
        return GpuOutputs(self._gpu, done, **outputs)

    def detections(
        self, outputs: Outputs, geometries: Sequence[ImageGeometry], result_filter: ResultFilter
    ) -> list[InstanceDetections]:
        """Turn outputs into detections; see `detections_from_gpu`.

        Raises:
            BackendError: they are another backend's, not finite, or the GPU failed.
        """
        if not isinstance(outputs, GpuOutputs):
            raise BackendError(
                f"outputs of another kind of backend ({type(outputs).__name__}) were given to onnxruntime"
            )
        return detections_from_gpu(outputs, geometries, self._manifest, result_filter)

    def synchronize(self) -> None:
        """Wait until the GPU has finished the uploads and all runs."""
        with self._gpu.current():
            self.uploads.synchronize()
            self._stream.synchronize()

    def check_health(self) -> None:
        """Check that the GPU still works; see `Backend.check_health`."""
        self._gpu.check()

    def close(self) -> None:
        """Wait for the GPU, then release the session, the streams and idle memory. A second call does nothing.

        After an error that stays there is nothing to wait for, and the driver releases nothing.
        """
        with self._lock:
            if self._session is None:
                return
            if self._gpu.driver.failure is not None:
                self._session = None
                return
            with self._gpu.current():
                self._stream.synchronize()
                self._session = None  # before the stream that it works on
                self._place.close()
                self.uploads.close()
        self._gpu.release_idle()

    def _room_for(self, inputs: GpuInputs) -> dict[str, GpuArray]:
        """Memory for the outputs, whose shapes follow from the contract."""
        batch, _, height, width = inputs.images.shape
        slots, stride = self._manifest.selection.max_detections, self._manifest.mask_stride
        planes = (batch, slots, height // stride, width // stride)
        shapes: dict[str, tuple[tuple[int, ...], str]] = {
            "num_detections": ((batch,), "int32"),
            "boxes": ((batch, slots, 4), "float32"),
            "scores": ((batch, slots), "float32"),
            "labels": ((batch, slots), "int32"),
            "mask_logits": (planes, self._logits),
        }
        return {name: self._gpu.memory.array(*shapes[name], self._stream) for name in OUTPUTS}
