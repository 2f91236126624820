"""Preprocessing with PyTorch, on the CPU or on a GPU."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from condinst_deploy.errors import DeviceError
from condinst_deploy.imaging.decode import RGBArray, jpeg_from, rgb_from
from condinst_deploy.runtime.device_outputs import side_stream
from condinst_deploy.runtime.observer import DECODE, RESIZE, Observer, observed
from condinst_deploy.runtime.preprocessing.types import GeometryOf, InputWriter, Prepared


class TensorPreparation:
    """Resizes with torchvision's antialiased filter. A value can differ by 1 from the value of Pillow.

    On a GPU, nvJPEG decodes plain JPEGs, and their values can differ by more. Other files are decoded on the CPU. The
    resized image stays on the GPU if the backend reads it there. The decoded image is copied to the host if
    `Prediction.image` shall hold it.
    """

    def __init__(
        self,
        geometry_of: GeometryOf,
        device: str | torch.device,
        writer: InputWriter,
        observer: Observer | None = None,
        keep_images: bool = True,
    ) -> None:
        self._geometry_of, self._device = geometry_of, torch.device(device)
        self._writer, self._observer, self._keeps = writer, observer, keep_images

    def __call__(self, source: Any, name: str) -> Prepared:
        """Prepare one image; see `rgb_from` for the kinds of image."""
        # imported here: it takes longer than the rest of the module, and exact preparation does not need it
        from torchvision.transforms.v2.functional import resize

        with observed(self._observer, DECODE, (name,)):
            image, pixels = self._decoded(source)
        geometry = self._geometry_of(_of_size(pixels) if image is None else image)
        with observed(self._observer, RESIZE, (name,)):
            resized = resize(pixels, list(geometry.resized), antialias=True)
            inputs = self._writer.from_tensor(resized, geometry)
        return Prepared(image if self._keeps else None, geometry, inputs)

    def _decoded(self, source: Any) -> tuple[RGBArray | None, Tensor]:
        """Return `(H, W, 3)` on the host, if it is there or asked for, and `(3, H, W)` on the device."""
        pixels = self._decoded_on_device(source) if self._device.type == "cuda" else None
        if pixels is None:
            image = rgb_from(source)
            return image, torch.from_numpy(image).permute(2, 0, 1).to(self._device)
        return (pixels.permute(1, 2, 0).contiguous().cpu().numpy() if self._keeps else None), pixels

    def _decoded_on_device(self, source: Any) -> Tensor | None:
        """Return None if the CPU has to decode the image; the CPU also reports what is wrong with a damaged file."""
        data = jpeg_from(source)
        if data is None:
            return None
        try:
            return jpeg_in_order(self._device, data)
        except RuntimeError:
            return None


def _of_size(pixels: Tensor) -> RGBArray:
    """Return an array with the sides of an image `(3, H, W)`, and without its memory."""
    return np.broadcast_to(np.uint8(0), (*pixels.shape[1:], 3))


def jpeg_in_order(gpu: torch.device, data: bytes) -> Tensor:
    """`jpeg_on` a GPU, for work on the current stream.

    torchvision's decoder writes on a stream of its own, which does not wait for other streams (pytorch/vision#9606).
    So it must not get memory that other work still reads, and nobody may read its memory before it is finished. The
    memory comes from a stream that is idle before and after.

    Raises:
        RuntimeError: as `jpeg_on`.
    """
    reader = torch.cuda.current_stream(gpu)
    with side_stream(gpu):
        own = torch.cuda.current_stream(gpu)
        own.synchronize()
        pixels = jpeg_on(gpu, data)
        own.synchronize()
    pixels.record_stream(reader)  # its stream gives the memory to no other image before the reader is done
    return pixels


def jpeg_on(device: torch.device, data: bytes) -> Tensor:
    """Decode a JPEG on a device.

    Returns:
        `(3, H, W)` uint8 RGB on the device.

    Raises:
        RuntimeError: the JPEG is damaged, or the device's decoder does not know its kind.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    content = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # a tensor of `bytes` would not be writable
    pixels: Tensor = decode_jpeg(content, mode=ImageReadMode.RGB, device=device)
    return pixels


def gpu_beside(device: str) -> torch.device:
    """Return the model's own device if it is a GPU, else the current GPU.

    Raises:
        DeviceError: PyTorch sees no GPU.
    """
    if not torch.cuda.is_available():
        raise DeviceError(
            "pixels='cuda' decodes and resizes on an NVIDIA GPU, and PyTorch sees none; use pixels='exact' or 'fast'"
        )
    chosen = torch.device(device if device.startswith("cuda") else "cuda")
    # a device without a number is another GPU in another thread
    return torch.device("cuda", torch.cuda.current_device() if chosen.index is None else chosen.index)
