"""Preprocessing with PyTorch, on the CPU or on a GPU."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from condinst_deploy.errors import DeviceError
from condinst_deploy.imaging.decode import RGBArray, jpeg_from, rgb_from
from condinst_deploy.runtime.device_outputs import on_host, side_stream, wait_for
from condinst_deploy.runtime.observer import DECODE, RESIZE, Observer, observed
from condinst_deploy.runtime.preprocessing.jpeg_batches import JpegBatches
from condinst_deploy.runtime.preprocessing.types import GeometryOf, InputWriter, Prepared


class TensorPreparation:
    """Resizes with torchvision's antialiased filter. A value can differ by 1 from the value of Pillow.

    On a GPU, nvJPEG decodes plain JPEGs, those of several threads together, and their values can differ by more. Other
    files are decoded on the CPU, which also says what is wrong with a damaged one. The resized image stays on the GPU
    if the backend reads it there. The decoded image is copied to the host if `Prediction.image` shall hold it.
    """

    def __init__(
        self,
        geometry_of: GeometryOf,
        device: str | torch.device,
        writer: InputWriter,
        observer: Observer | None = None,
        keep_images: bool = True,
        jpegs: JpegBatches | None = None,
    ) -> None:
        """`jpegs` decodes plain JPEGs on the device; None: the CPU decodes all images."""
        self._geometry_of, self._device, self._jpegs = geometry_of, torch.device(device), jpegs
        self._writer, self._observer, self._keeps = writer, observer, keep_images

    def __call__(self, source: Any, name: str) -> Prepared:
        """Prepare one image; see `rgb_from` for the kinds of image."""
        # imported here: it takes longer than the rest of the module, and exact preparation does not need it
        from torchvision.transforms.v2.functional import resize

        with side_stream(self._device):
            with observed(self._observer, DECODE, (name,)):
                image, pixels = self._decoded(source)
            geometry = self._geometry_of(_of_size(pixels) if image is None else image)
            with observed(self._observer, RESIZE, (name,)):
                resized = resize(pixels, list(geometry.resized), antialias=True)
                inputs = self._writer.from_tensor(resized, geometry)
                if self._device.type == "cuda":
                    wait_for(torch.cuda.current_stream(self._device))  # another thread may get the stream now
        return Prepared(image if self._keeps else None, geometry, inputs)

    def _decoded(self, source: Any) -> tuple[RGBArray | None, Tensor]:
        """Return `(H, W, 3)` on the host, if it is there or asked for, and `(3, H, W)` on the device."""
        jpeg = None if self._jpegs is None else jpeg_from(source)
        pixels = None if self._jpegs is None or jpeg is None else self._jpegs.decoded(jpeg)
        if pixels is None:
            image = rgb_from(source)
            return image, torch.from_numpy(image).permute(2, 0, 1).to(self._device)
        return (on_host(pixels.permute(1, 2, 0).contiguous())[0] if self._keeps else None), pixels


def _of_size(pixels: Tensor) -> RGBArray:
    """Return an array with the sides of an image `(3, H, W)`, and without its memory."""
    return np.broadcast_to(np.uint8(0), (*pixels.shape[1:], 3))


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
