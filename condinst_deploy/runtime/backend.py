"""What every backend is: the same four verbs, load, preprocess, forward, postprocess."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeAlias

from condinst_deploy.contract import (
    ImageGeometry,
    InstanceDetections,
    ModelManifest,
    NetworkInputs,
    NetworkOutputs,
)
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.runtime.postprocess import ResultFilter, detections_from_outputs
from condinst_deploy.runtime.preprocessing.batch import network_inputs
from condinst_deploy.support.closing import Closing

if TYPE_CHECKING:  # it takes PyTorch, which a mistake in a command's arguments should not wait for
    from condinst_deploy.runtime.device_outputs import DeviceOutputs

Outputs: TypeAlias = "NetworkOutputs | DeviceOutputs"
"""What `infer` gives and `postprocess` takes: on the host, or still on the device that made them."""


class Backend(Closing):
    """One loaded model on one device. Close it, or use it in a `with` block."""

    name: str
    device: str
    manifest: ModelManifest
    note: str = ""  # what loading found out about the file
    largest_batch: int | None = None  # images that the network takes at once; None: as many as memory holds

    @classmethod
    @abstractmethod
    def load(cls, path: Path, device: str = "auto") -> Self:
        """Load a model file.

        Args:
            path: a file of the backend's kind.
            device: "auto", "cpu", "cuda" or "cuda:N"; "auto" takes a GPU where PyTorch sees one, else the CPU.

        Raises:
            ArtifactError: the file or its manifest cannot be used.
            BackendError: the device or a library is not there.
        """

    def geometry(self, image: RGBArray) -> ImageGeometry:
        """Sizes of an image on its way through this model."""
        static = self.manifest.static_shape
        canvas = static[1:] if static else None
        return ImageGeometry.of((image.shape[0], image.shape[1]), self.manifest.preprocessing, canvas)

    def preprocess(self, images: Sequence[RGBArray]) -> tuple[NetworkInputs, list[ImageGeometry]]:
        """RGB images -> one batch, padded to the largest, as the references pad a batch."""
        geometries = [self.geometry(image) for image in images]
        static = self.manifest.static_shape
        return network_inputs(images, geometries, static[0] if static else None), geometries

    @abstractmethod
    def forward(self, inputs: NetworkInputs) -> NetworkOutputs:
        """Run the network on one batch; the outputs are on the host, and finished."""

    def infer(self, inputs: NetworkInputs) -> Outputs:
        """Run the network on one batch, for this backend's own `postprocess`.

        A backend on a GPU may leave the outputs there, and may return before they are finished.
        """
        return self.forward(inputs)

    def synchronize(self) -> None:
        """Wait until all work given to the device is finished."""

    def postprocess(
        self, outputs: Outputs, geometries: Sequence[ImageGeometry], result_filter: ResultFilter | None = None
    ) -> list[InstanceDetections]:
        """Network outputs -> detections in original pixels, one a geometry; finished, and on the host.

        Raises:
            BackendError: the network's outputs are not finite.
        """
        if isinstance(outputs, NetworkOutputs):
            return detections_from_outputs(outputs, geometries, self.manifest, result_filter or ResultFilter())
        # imported here: it takes Triton, and what gives outputs on a device has it
        from condinst_deploy.runtime.device_postprocess import detections_from_device

        return detections_from_device(outputs, geometries, self.manifest, result_filter or ResultFilter())

    def close(self) -> None:
        """Release what the backend holds; it cannot be used afterwards."""
