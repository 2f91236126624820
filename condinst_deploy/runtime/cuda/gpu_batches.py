"""Batches of an engine: inputs on their way to the GPU, and outputs on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from condinst_deploy.contract import ImageGeometry, NetworkInputs, NetworkOutputs
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.imaging.resize import resized_image
from condinst_deploy.imaging.resize_tables import tables_agree_with_pillow
from condinst_deploy.runtime.cuda.gpu import Event, Gpu, Kernel, Stream
from condinst_deploy.runtime.cuda.memory_pools import Block, GpuArray, host_array
from condinst_deploy.runtime.decoded_image import DecodedLayout
from condinst_deploy.runtime.host_inputs import inputs_of_image
from condinst_deploy.runtime.postprocess import require_finite

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class PinnedInputs:
    """One image, or some of equal padded shape, in pinned memory as the network reads it."""

    block: Block
    shape: tuple[int, ...]  # (B, 3, H, W)
    image_sizes: npt.NDArray[np.int32]  # (B, 2)

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        """`shape`, in the pinned memory itself."""
        return host_array(self.block)[: int(np.prod(self.shape))].reshape(self.shape)

    def on_host(self) -> NetworkInputs:
        """Return arrays in the pinned memory."""
        return NetworkInputs(self.pixels, self.image_sizes)


@dataclass(frozen=True, eq=False)
class _DecodedImage:
    """One decoded image, which the GPU resizes."""

    layout: DecodedLayout

    @property
    def shape(self) -> tuple[int, ...]:
        """`(1, 3, H, W)` of the resized and padded image."""
        return (1, 3, *self.layout.geometry.padded)

    @property
    def image_sizes(self) -> npt.NDArray[np.int32]:
        """`(1, 2)`."""
        return np.array([self.layout.geometry.resized], dtype=np.int32)


@dataclass(frozen=True, eq=False)
class PinnedImage(_DecodedImage):
    """A decoded image in pinned memory."""

    block: Block

    def on_host(self) -> NetworkInputs:
        """Return the image resized by Pillow."""
        return self.layout.on_host(host_array(self.block))


@dataclass(frozen=True, eq=False)
class WaitingImage(_DecodedImage):
    """A decoded image that is not in pinned memory yet, because there was no room; the upload finds some."""

    image: RGBArray  # (H, W, 3)

    def on_host(self) -> NetworkInputs:
        """Return the image resized by Pillow."""
        return inputs_of_image(self.image, self.layout.geometry)

    def pinned(self, gpu: Gpu) -> PinnedImage:
        """Copy the image to pinned memory, which may be waited for. The GPU is current."""
        return written_image(gpu, self.image, self.layout)


Pinned = PinnedInputs | PinnedImage | WaitingImage


@dataclass(frozen=True, eq=False)
class GpuInputs:
    """A batch on a GPU, which may still be writing it: work on it waits for `ready`."""

    gpu: Gpu
    images: GpuArray  # (B, 3, H, W) uint8
    image_sizes: GpuArray  # (B, 2) int32
    ready: Event

    def on_host(self) -> NetworkInputs:
        """Return finished arrays; the caller waits."""
        with self.gpu.side_stream() as stream:
            stream.wait(self.ready)
            return NetworkInputs(*stream.downloaded([self.images, self.image_sizes]))


@dataclass(frozen=True, eq=False)
class GpuOutputs:
    """Outputs on a GPU that may still be computing them; work on them waits for `ready`. No later run changes them."""

    gpu: Gpu
    ready: Event
    num_detections: GpuArray  # (B,) int32
    boxes: GpuArray  # (B, K, 4) float32
    scores: GpuArray  # (B, K) float32
    labels: GpuArray  # (B, K) int32
    mask_logits: GpuArray  # (B, K, h, w) float32 or float16

    def on_host(self, images: int | None = None, precision: str = "float32") -> NetworkOutputs:
        """Wait for the outputs and return arrays.

        Args:
            images: the number of images in the batch that are not blank; None: all.
            precision: of the network, for the error.

        Raises:
            BackendError: a logit of these images is NaN or infinite, in any slot.
        """
        arrays = (self.num_detections, self.boxes, self.scores, self.labels, self.mask_logits)
        with self.gpu.side_stream() as stream:
            stream.wait(self.ready)
            outputs = NetworkOutputs(*stream.downloaded(arrays))
        require_finite(bool(np.isfinite(outputs.mask_logits[:images]).all()), precision)
        return outputs


class PinnedWriter:
    """The `InputWriter` of engines: images are written into pinned memory, from which the GPU copies.

    The GPU resizes them, if it can run the kernel.
    """

    def __init__(self, gpu: Gpu) -> None:
        self._gpu = gpu
        with gpu.current():
            self._resizes = tables_agree_with_pillow() and resize_kernel(gpu) is not None

    def from_image(self, image: RGBArray, geometry: ImageGeometry) -> Pinned:
        """Write `(H, W, 3)` uint8."""
        if self._resizes:
            layout = DecodedLayout.of(geometry)
            if not self._gpu.pinned.has_room(layout.nbytes):
                return WaitingImage(layout, image)  # the uploads of earlier batches make room
            with self._gpu.current():
                return written_image(self._gpu, image, layout)
        return self._resized(resized_image(image, geometry.resized), geometry)

    def _resized(self, resized: RGBArray, geometry: ImageGeometry) -> PinnedInputs:
        """Write `(h, w, 3)` uint8."""
        shape = (1, 3, *geometry.padded)
        with self._gpu.current():
            block = self._gpu.pinned.taken(int(np.prod(shape)))
        inputs = PinnedInputs(block, shape, np.array([geometry.resized], dtype=np.int32))
        (height, width), target = geometry.resized, inputs.pixels[0]
        target[:, :height, :width] = resized.transpose(2, 0, 1)  # (h, w, 3) -> (3, h, w)
        target[:, height:] = 0
        target[:, :height, width:] = 0
        return inputs

    def from_inputs(self, inputs: NetworkInputs) -> PinnedInputs:
        """Copy images that another writer wrote."""
        with self._gpu.current():
            block = self._gpu.pinned.taken(inputs.images.nbytes)
        pinned = PinnedInputs(block, inputs.images.shape, inputs.image_sizes)
        pinned.pixels[:] = inputs.images
        return pinned

    def from_tensor(self, resized: "Tensor", geometry: ImageGeometry) -> PinnedInputs:
        """Write `(3, h, w)` uint8 from any device."""
        return self._resized(resized.cpu().numpy().transpose(1, 2, 0), geometry)


def uploaded(gpu: Gpu, stream: Stream, parts: Sequence[Pinned], batch: int) -> GpuInputs:
    """Start to copy images of equal padded shape into a batch; the caller does not wait.

    Args:
        gpu: where to.
        stream: of the copies.
        parts: images in pinned memory. Decoded images are resized.
        batch: images of the batch; those beyond `parts` are blank.

    Raises:
        BackendError: there is not enough memory, or the GPU failed.
    """
    with stream.settled():
        return _started(gpu, stream, parts, batch)


def _started(gpu: Gpu, stream: Stream, parts: Sequence[Pinned], batch: int) -> GpuInputs:
    shape = parts[0].shape[1:]
    images = gpu.memory.array((batch, *shape), "uint8", stream)
    given = 0
    decoded = []  # blocks on the GPU
    for part in parts:
        target = images.rows(given, given + part.shape[0])
        if isinstance(part, WaitingImage):
            decoded.append(_pinned_and_resized(gpu, stream, part, target))
        elif isinstance(part, PinnedImage):
            decoded.append(_resized_on(gpu, stream, part, target))
        else:
            stream.upload(target, part.block)
        given += part.shape[0]
    stream.fill(images.rows(given, batch), 0)
    sizes = np.full((batch, 2), shape[1:], dtype=np.int32)
    sizes[:given] = np.concatenate([part.image_sizes for part in parts])
    table = gpu.pinned.taken(sizes.nbytes)
    host_array(table)[: sizes.nbytes] = sizes.view(np.uint8).ravel()
    on_gpu = gpu.memory.array(sizes.shape, "int32", stream)
    stream.upload(on_gpu, table)
    done = stream.record()
    for block in (table, images.owner, on_gpu.owner, *decoded, *_blocks(parts)):
        block.used_until(done)
    return GpuInputs(gpu, images, on_gpu, done)


def written_image(gpu: Gpu, image: RGBArray, layout: DecodedLayout) -> PinnedImage:
    """Copy a decoded image `(H, W, 3)` to pinned memory, with its coefficients. The GPU is current."""
    block = gpu.pinned.taken(layout.nbytes)
    layout.write(host_array(block), image)
    return PinnedImage(layout, block)


def _blocks(parts: Sequence[Pinned]) -> list[Block]:
    return [part.block for part in parts if not isinstance(part, WaitingImage)]


def resize_kernel(gpu: Gpu) -> Kernel | None:
    """Return the kernel of `kernels/resize.py`; None if the GPU cannot run it. The GPU is current."""
    return gpu.kernel("resize_kernel")


def _pinned_and_resized(gpu: Gpu, stream: Stream, image: WaitingImage, target: GpuArray) -> Block:
    """`_resized_on` for an image that is not in pinned memory; the next one may get its memory behind the copy."""
    now = image.pinned(gpu)
    block = _resized_on(gpu, stream, now, target)
    now.block.used_until(stream.record())
    return block


def _resized_on(gpu: Gpu, stream: Stream, image: PinnedImage, target: GpuArray) -> Block:
    """Copy an image to the GPU and resize it into `target (1, 3, H, W)`. Returns the memory of the copy."""
    kernel, layout = resize_kernel(gpu), image.layout
    assert kernel is not None  # the writer makes such images only where there is one
    block = gpu.memory.taken(layout.nbytes, stream)
    stream.upload(block.array((layout.nbytes,), "uint8"), image.block)
    numbers = layout.numbers
    rows, columns = block.address + layout.rows_at, block.address + layout.columns_at
    outer, inner = (columns, rows) if layout.tables.columns_first else (rows, columns)
    kernel.launch(stream, numbers.grid, block.address, outer, inner, *numbers, target.address)
    return block
