"""Images decoded and resized as PyTorch's tensors, on the CPU or on a GPU."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from condinst_deploy.contract import NetworkInputs
from condinst_deploy.errors import BackendError
from condinst_deploy.imaging.decode import RGBArray, jpeg_from, rgb_from
from condinst_deploy.runtime.preprocessing.factory import GeometryOf, Prepared


class TensorPreparation:
    """Resizes with torchvision, antialiased as Pillow does it; a resized value can differ by 1.

    On a GPU nvJPEG decodes plain JPEGs, whose values can then differ by more; other files are decoded on the CPU.
    The resized image is copied to the host all the same, where batches are formed, and goes up again with its batch.
    """

    def __init__(self, geometry_of: GeometryOf, device: str | torch.device) -> None:
        self._geometry_of, self._device = geometry_of, torch.device(device)

    def __call__(self, source: Any) -> Prepared:
        """Prepare one image; see `rgb_from` for what it may be."""
        # imported here: it takes longer than the rest of the module, and most runs are exact
        from torchvision.transforms.v2.functional import resize

        image, pixels = self._decoded(source)
        geometry = self._geometry_of(image)
        (height, width), (padded_height, padded_width) = geometry.resized, geometry.padded
        resized = resize(pixels, [height, width], antialias=True)
        padded = F.pad(resized, (0, padded_width - width, 0, padded_height - height)).contiguous()
        sizes = np.array([geometry.resized], dtype=np.int32)
        return Prepared(image, geometry, NetworkInputs(padded[None].cpu().numpy(), sizes))

    def _decoded(self, source: Any) -> tuple[RGBArray, Tensor]:
        """`(H, W, 3)` on the host and `(3, H, W)` on the device."""
        pixels = self._decoded_on_device(source) if self._device.type == "cuda" else None
        if pixels is None:
            image = rgb_from(source)
            return image, torch.from_numpy(image).permute(2, 0, 1).to(self._device)
        return pixels.permute(1, 2, 0).contiguous().cpu().numpy(), pixels

    def _decoded_on_device(self, source: Any) -> Tensor | None:
        """None: it has to be decoded on the CPU, which also says what is wrong with a damaged file."""
        data = jpeg_from(Path(source)) if isinstance(source, str | Path) else None
        if data is None:
            return None
        try:
            return jpeg_on(self._device, data)
        except RuntimeError:
            return None


def jpeg_on(device: torch.device, data: bytes) -> Tensor:
    """Decode a JPEG where it is needed.

    Returns:
        `(3, H, W)` uint8 RGB on the device.

    Raises:
        RuntimeError: it is damaged or of a kind that the device's decoder does not know.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    content = torch.frombuffer(bytearray(data), dtype=torch.uint8)  # of bytes alone it would not be writable
    pixels: Tensor = decode_jpeg(content, mode=ImageReadMode.RGB, device=device)
    return pixels


def gpu_beside(device: str) -> torch.device:
    """The model's own device where it is a GPU, else the current GPU.

    Raises:
        BackendError: there is none.
    """
    if not torch.cuda.is_available():
        raise BackendError(
            "pixels='cuda' decodes and resizes on an NVIDIA GPU, and PyTorch sees none; use pixels='exact' or 'fast'"
        )
    chosen = torch.device(device if device.startswith("cuda") else "cuda")
    # without a number it would mean another GPU in another thread
    return torch.device("cuda", torch.cuda.current_device() if chosen.index is None else chosen.index)
