"""From prepared images to batches on a GPU, for every backend that reads memory of the driver."""

from collections.abc import Sequence

from condinst_deploy.runtime.cuda.gpu import Gpu, Stream
from condinst_deploy.runtime.cuda.gpu_batches import (
    GpuInputs,
    Pinned,
    PinnedImage,
    PinnedInputs,
    PinnedWriter,
    WaitingImage,
    uploaded,
)
from condinst_deploy.runtime.preprocessing.types import Inputs


class Uploads:
    """Uploads of a backend, on a separate stream, so that they run beside the network.

    Attributes:
        writer: writes prepared images where uploads start.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        self.writer = PinnedWriter(gpu)
        with gpu.current():
            self._stream = Stream(gpu)

    def pinned(self, part: Inputs) -> Pinned:
        """Return an image in pinned memory; one that another writer wrote is copied."""
        return (
            part
            if isinstance(part, PinnedInputs | PinnedImage | WaitingImage)
            else self.writer.from_inputs(part.on_host())
        )

    def started(self, parts: Sequence[Pinned], batch: int) -> GpuInputs:
        """Start to copy images to a batch of this size; those beyond `parts` are blank. The caller does not wait."""
        with self._gpu.current():
            return uploaded(self._gpu, self._stream, parts, batch)

    def on_gpu(self, inputs: Inputs) -> GpuInputs:
        """Return exactly this batch on the GPU."""
        if isinstance(inputs, GpuInputs):
            return inputs
        part = self.pinned(inputs)
        return self.started([part], part.shape[0])

    def synchronize(self) -> None:
        """Wait for all uploads; the GPU is current."""
        self._stream.synchronize()

    def close(self) -> None:
        """Wait, then release the stream; the GPU is current."""
        self._stream.close()
