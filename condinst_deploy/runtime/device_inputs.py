"""The network's input as tensors: on a device, or in host memory that a device can copy from without waiting."""

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from condinst_deploy.contract import ImageGeometry, NetworkInputs
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.runtime.device_outputs import to_device


class DeviceInputs(NamedTuple):
    """Inputs that a device may still be writing; read them with `taken` or `on_host`.

    The values are those of `NetworkInputs`.
    """

    images: Tensor  # (B, 3, H, W) uint8
    image_sizes: Tensor  # (B, 2) int32, on the device of the images or on the host
    ready: torch.cuda.Event | None  # recorded behind the writing; None: the tensors are on the host, and written

    @classmethod
    def of(cls, images: Tensor, image_sizes: Tensor) -> Self:
        """Inputs that the current stream writes."""
        ready = torch.cuda.current_stream(images.device).record_event() if images.is_cuda else None
        return cls(images, image_sizes, ready)

    @property
    def device(self) -> torch.device:
        """Return the device of the images."""
        return self.images.device

    def taken(self) -> tuple[Tensor, Tensor]:
        """Return images and sizes for work on the current stream. The stream waits for them, the caller does not."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.images.device)
            stream.wait_event(self.ready)
            for tensor in (self.images, self.image_sizes):
                if tensor.is_cuda:
                    # the allocator gives the memory to its own stream again only after this stream has read it
                    tensor.record_stream(stream)
        return self.images, self.image_sizes

    def on_host(self) -> NetworkInputs:
        """Return finished arrays; the caller waits."""
        images, sizes = self.taken()
        return NetworkInputs(images.cpu().numpy(), sizes.cpu().numpy())


class DeviceWriter:
    """The `InputWriter` of backends that read tensors.

    For a GPU, images from the host are written into pinned memory, from which `collated` copies without waiting.
    Images on the GPU stay there. PyTorch's allocators keep the memory and give it to a later image.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def from_array(self, resized: RGBArray, geometry: ImageGeometry) -> DeviceInputs:
        """Write `(h, w, 3)` uint8 from the host."""
        images = self._memory(geometry, on_device=False)
        (height, width), target = geometry.resized, images.numpy()
        target[0, :, :height, :width] = resized.transpose(2, 0, 1)  # (h, w, 3) -> (3, h, w)
        return DeviceInputs.of(images, _sizes(geometry))

    def from_tensor(self, resized: Tensor, geometry: ImageGeometry) -> DeviceInputs:
        """Write `(3, h, w)` uint8 from any device."""
        images = self._memory(geometry, on_device=resized.device == self._device)
        height, width = geometry.resized
        images[0, :, :height, :width].copy_(resized)
        return DeviceInputs.of(images, _sizes(geometry))

    def _memory(self, geometry: ImageGeometry, on_device: bool) -> Tensor:
        """Return `(1, 3, H, W)` whose padding is zero."""
        shape, (height, width) = (1, 3, *geometry.padded), geometry.resized
        if on_device:
            images = torch.empty(shape, dtype=torch.uint8, device=self._device)
        else:
            images = torch.empty(shape, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        images[..., height:, :] = 0
        images[..., :height, width:] = 0
        return images


def collated(
    parts: Sequence[DeviceInputs], batch: int | None, device: torch.device, stream: torch.cuda.Stream | None = None
) -> DeviceInputs:
    """Put inputs of equal padded shape together on a device.

    Args:
        parts: inputs of one image or more each, on the host or on the device.
        batch: the number of images that the network takes; missing images are blank. None: as many as given.
        device: where the batch is made. The parts are not copied if they are a whole batch there already.
        stream: the stream of the copies. None: the current one.
    """
    given = sum(len(part.images) for part in parts)
    count = max(given, batch or 0)
    if len(parts) == 1 and count == given and parts[0].device == device:
        return parts[0]
    height, width = parts[0].images.shape[2:]
    with torch.cuda.stream(stream):  # does nothing if the stream is None
        images = torch.empty((count, 3, height, width), dtype=torch.uint8, device=device)
        start = 0
        for part in parts:
            source, _ = part.taken()
            images[start : start + len(source)].copy_(source, non_blocking=True)
            start += len(source)
        images[given:] = 0
        blank = np.full((count - given, 2), (height, width), dtype=np.int32)
        sizes = np.concatenate([*(part.image_sizes.cpu().numpy() for part in parts), blank])
        return DeviceInputs.of(images, to_device(sizes, device))


def inputs_on(inputs: NetworkInputs | DeviceInputs, device: torch.device) -> DeviceInputs:
    """Return inputs on a device, for work on the current stream; the caller does not wait for copies."""
    if isinstance(inputs, NetworkInputs):
        return DeviceInputs.of(to_device(inputs.images, device), to_device(inputs.image_sizes, device))
    if inputs.device == device and inputs.image_sizes.device == device:
        return inputs
    images, sizes = inputs.taken()
    return DeviceInputs.of(images.to(device, non_blocking=True), sizes.to(device, non_blocking=True))


def _sizes(geometry: ImageGeometry) -> Tensor:
    return torch.tensor([geometry.resized], dtype=torch.int32)
