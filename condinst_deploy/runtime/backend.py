"""The interface of all backends. Its verbs are load, forward and postprocess."""

import os
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest, NetworkOutputs
from condinst_deploy.errors import BackendError
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.runtime.postprocess import ResultFilter, detections_from_outputs
from condinst_deploy.runtime.preprocessing.batch import HostWriter, stacked
from condinst_deploy.runtime.preprocessing.types import Inputs, InputWriter

if TYPE_CHECKING:  # it imports PyTorch, and arguments are checked before PyTorch is imported
    from condinst_deploy.runtime.cuda.gpu_batches import GpuOutputs
    from condinst_deploy.runtime.device_outputs import DeviceOutputs

Outputs: TypeAlias = "NetworkOutputs | DeviceOutputs | GpuOutputs"
"""Outputs on the host, or on the device that computes them. `on_host` gives arrays of all."""


def closed_error() -> BackendError:
    """The error of a network that is run after its backend was closed."""
    return BackendError("this model was closed; load it again")


class Backend(AbstractContextManager["Backend"]):
    """One loaded model on one device. Close it, or use it in a `with` block."""

    name: str
    device: str
    manifest: ModelManifest
    note: str = ""  # what loading found out about the file
    largest_batch: int | None = None  # most images in a batch; None: as many as fit into memory
    _process: int  # that loaded it
    input_writer: InputWriter = HostWriter()  # where prepared images are written

    def __new__(cls, *_: object, **__: object) -> Self:
        """Remember the process; `check_process` compares it."""
        backend = super().__new__(cls)
        backend._process = os.getpid()
        return backend

    def check_process(self) -> None:
        """Check that this process loaded the model.

        Raises:
            BackendError: it was forked from the process that did. A library's threads do not come along, and a run
                would wait for them for ever.
        """
        if self._process != os.getpid():
            raise BackendError(
                "this model was loaded in another process, from which this one was forked, and its threads are not"
                " here; load the model in the process that uses it, or start processes with multiprocessing's method"
                " 'spawn' (gunicorn: without --preload)"
            )

    @classmethod
    @abstractmethod
    def load(cls, path: Path, device: str = "auto") -> Self:
        """Load a model file.

        Args:
            path: a file of the backend's kind.
            device: "auto", "cpu", "cuda" or "cuda:N"; "auto" takes a GPU if PyTorch sees one, else the CPU.

        Raises:
            ArtifactError: the file or its manifest cannot be used.
            BackendError: the device or a library is missing.
        """

    @property
    def static_batch(self) -> int | None:
        """The batch size of a model with a fixed shape; None: any."""
        return self.manifest.static_shape[0] if self.manifest.static_shape else None

    def geometry(self, image: RGBArray) -> ImageGeometry:
        """Return the sizes of an image on its way through this model."""
        static = self.manifest.static_shape
        canvas = static[1:] if static else None
        return ImageGeometry.of((image.shape[0], image.shape[1]), self.manifest.preprocessing, canvas)

    def collate(self, parts: Sequence[Inputs]) -> Inputs:
        """Put images of equal padded shape together, and add blank images if the model has a fixed batch size.

        Args:
            parts: what `input_writer` wrote, or `NetworkInputs`.
        """
        return stacked([part.on_host() for part in parts], self.static_batch)

    @abstractmethod
    def forward(self, inputs: Inputs) -> Outputs:
        """Run the network on one batch.

        A backend on a GPU may return before the outputs are finished, and leave them on the GPU for `postprocess`;
        `outputs.on_host()` waits and gives `NetworkOutputs`. No later run changes the outputs.

        Raises:
            BackendError: the model was closed or cannot run this batch.
        """

    def synchronize(self) -> None:
        """Wait until the device has finished all work."""

    def thread_initializer(self) -> Callable[[], None] | None:
        """Return what a thread has to call before it uses the backend; None: nothing."""
        return None

    def check_health(self) -> None:
        """Check that the device still works. It takes less than a millisecond on an idle device.

        Raises:
            BackendError: it does not; the message says what to do.
        """

    def postprocess(
        self, outputs: Outputs, geometries: Sequence[ImageGeometry], result_filter: ResultFilter | None = None
    ) -> list[InstanceDetections]:
        """Turn outputs of `forward` into detections in original pixels, one entry for each geometry.

        Raises:
            BackendError: the network's outputs are not finite.
        """
        if isinstance(outputs, NetworkOutputs):
            return detections_from_outputs(outputs, geometries, self.manifest, result_filter or ResultFilter())
        # imported here: it imports Triton, which backends with outputs on a device have imported before
        from condinst_deploy.runtime.device_outputs import DeviceOutputs
        from condinst_deploy.runtime.device_postprocess import detections_from_device

        if not isinstance(outputs, DeviceOutputs):
            raise BackendError(
                f"outputs of another kind of backend ({type(outputs).__name__}) were given to {self.name}"
            )
        return detections_from_device(outputs, geometries, self.manifest, result_filter or ResultFilter())

    def close(self) -> None:
        """Release the model. The backend cannot be used afterwards; a second call does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
