"""The network's input as tensors: on a device, or in host memory that a device can copy from without waiting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from condinst_deploy.contract import ImageGeometry, NetworkInputs
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.imaging.resize import resized_image
from condinst_deploy.imaging.resize_tables import tables_agree_with_pillow
from condinst_deploy.kernels.host_memory import copied_to, host_tensor, to_device
from condinst_deploy.kernels.operations import kernels_run_on
from condinst_deploy.runtime.decoded_image import DecodedLayout
from condinst_deploy.runtime.host_inputs import inputs_of_image
from condinst_deploy.runtime.pinned_budget import PinnedBudget, PinnedShare


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

    @property
    def shape(self) -> torch.Size:
        """`(B, 3, H, W)`."""
        return self.images.shape

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


@dataclass(frozen=True, eq=False)
class DecodedInputs:
    """One image that `collated` resizes on the device."""

    layout: DecodedLayout
    memory: Tensor | None = None  # (N,) uint8 on the host, as `layout` says
    image: RGBArray | None = None  # (H, W, 3) where it is not in such memory yet, because there was no room
    share: PinnedShare | None = None  # of pinned memory, while this object lives

    @property
    def shape(self) -> torch.Size:
        """`(1, 3, H, W)` of the resized and padded image."""
        return torch.Size((1, 3, *self.layout.geometry.padded))

    @property
    def image_sizes(self) -> Tensor:
        """`(1, 2)` int32."""
        return _sizes(self.layout.geometry)

    def on_host(self) -> NetworkInputs:
        """Return the image resized by Pillow."""
        if self.image is not None:
            return inputs_of_image(self.image, self.layout.geometry)
        assert self.memory is not None
        return self.layout.on_host(self.memory.numpy())

    def resize_into(self, target: Tensor) -> None:
        """Copy the image to the device of `target (3, H, W)` and resize it there, on the current stream."""
        # imported here: importing Triton takes a second, and runs on a CPU do not need it
        from condinst_deploy.kernels.resize import resize_into

        memory = self.memory
        if memory is None:
            assert self.image is not None
            memory = _written(self.layout, self.image, pinned=target.is_cuda)
        layout, there = self.layout, copied_to(memory, target.device)
        tables = layout.tables
        image = there[: layout.image_bytes].view(*layout.geometry.original, 3)
        rows, columns = (
            there[start : start + table.nbytes].view(torch.int32).view(table.shape)
            for start, table in ((layout.rows_at, tables.rows), (layout.columns_at, tables.columns))
        )
        resize_into(target, image, rows, columns, columns_first=tables.columns_first)


class DeviceWriter:
    """The `InputWriter` of backends that read tensors.

    For a GPU, images from the host are written into pinned memory, from which `collated` copies without waiting; where
    kernels run, they are resized on the GPU. Images on the GPU stay there. PyTorch's allocators keep the memory and
    give it to a later image. Images beyond the budget of pinned memory are copied there by `collated`.
    """

    def __init__(self, device: torch.device, budget: PinnedBudget | None = None) -> None:
        self._device, self._budget = device, budget or PinnedBudget()

    def from_image(self, image: RGBArray, geometry: ImageGeometry) -> DeviceInputs | DecodedInputs:
        """Write `(H, W, 3)` uint8 from the host."""
        if kernels_run_on(self._device) and tables_agree_with_pillow():
            layout = DecodedLayout.of(geometry)
            share = self._budget.share(layout.nbytes)
            if share is None:
                return DecodedInputs(layout, image=image)
            memory = _written(layout, image, pinned=self._device.type == "cuda")
            return DecodedInputs(layout, memory, share=share)
        return self._resized(resized_image(image, geometry.resized), geometry)

    def _resized(self, resized: RGBArray, geometry: ImageGeometry) -> DeviceInputs:
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
            images = host_tensor(shape, pinned=self._device.type == "cuda")
        images[..., height:, :] = 0
        images[..., :height, width:] = 0
        return images


def collated(
    parts: Sequence[DeviceInputs | DecodedInputs],
    batch: int | None,
    device: torch.device,
    stream: torch.cuda.Stream | None = None,
) -> DeviceInputs:
    """Put inputs of equal padded shape together on a device.

    Args:
        parts: inputs of one image or more each, on the host or on the device. Decoded images are resized.
        batch: the number of images that the network takes; missing images are blank. None: as many as given.
        device: where the batch is made. The parts are not copied if they are a whole batch there already.
        stream: the stream of the copies. None: the current one.
    """
    given = sum(part.shape[0] for part in parts)
    count = max(given, batch or 0)
    whole = parts[0]
    if count == whole.shape[0] and isinstance(whole, DeviceInputs) and whole.device == device:
        return whole
    height, width = whole.shape[2:]
    with torch.cuda.stream(stream):  # does nothing if the stream is None
        images = torch.empty((count, 3, height, width), dtype=torch.uint8, device=device)
        start = 0
        for part in parts:
            if isinstance(part, DecodedInputs):
                part.resize_into(images[start])
            else:
                given_images, _ = part.taken()
                asynchronous = given_images.is_cuda or given_images.is_pinned()
                images[start : start + part.shape[0]].copy_(given_images, non_blocking=asynchronous)
            start += part.shape[0]
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


def _written(layout: DecodedLayout, image: RGBArray, *, pinned: bool) -> Tensor:
    memory = host_tensor(layout.nbytes, pinned=pinned)
    layout.write(memory.numpy(), image)
    return memory


def _sizes(geometry: ImageGeometry) -> Tensor:
    return torch.tensor([geometry.resized], dtype=torch.int32)
