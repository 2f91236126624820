"""One picture of any kind -> the network's input, in one of three ways that differ in speed and in the last digit."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from condinst_deploy.contract import ImageGeometry, NetworkInputs
from condinst_deploy.errors import BackendError, ConfigError
from condinst_deploy.runtime.images import RGBArray, jpeg_from, rgb_from
from condinst_deploy.runtime.preprocess import network_inputs

Pixels = Literal["exact", "fast", "cuda"]
"""Where a picture is decoded and resized: on the CPU as the references do it, on the CPU by PyTorch, on a GPU."""


@dataclass(frozen=True)
class InputOptions:
    """How pictures become the network's input."""

    pixels: Pixels = "exact"
    workers: int | None = None  # threads that decode and resize; None: see `Predictor`

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value is not one of those that there are.
        """
        if self.pixels not in get_args(Pixels):
            raise ConfigError(f"pixels is {self.pixels!r}; expected one of {', '.join(get_args(Pixels))}")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers is {self.workers}; expected at least 1")


class Prepared(NamedTuple):
    """A picture that is ready for the network."""

    image: RGBArray  # (H, W, 3) uint8, upright
    geometry: ImageGeometry
    inputs: NetworkInputs  # of this picture alone


GeometryOf = Callable[[RGBArray], ImageGeometry]
Prepare = Callable[[Any], Prepared]
"""Picture of any kind -> what the network takes; raises `ImageError`; threads may call it at once."""


def preparation(pixels: Pixels, geometry_of: GeometryOf, device: str) -> Prepare:
    """The function that prepares pictures in the way asked for.

    Args:
        pixels: the way.
        geometry_of: `Backend.geometry` of the model.
        device: the model's; `pixels="cuda"` uses it where it is a GPU.

    Raises:
        BackendError: a GPU was asked for and is not there.
    """
    if pixels == "exact":
        return lambda source: prepared_exactly(source, geometry_of)
    if pixels == "fast":
        return TensorPreparation(geometry_of, torch.device("cpu"))
    if not torch.cuda.is_available():
        raise BackendError(
            "pixels='cuda' decodes and resizes on an NVIDIA GPU, and PyTorch sees none; use pixels='exact' or 'fast'"
        )
    chosen = torch.device(device if device.startswith("cuda") else "cuda")
    # without a number it would mean another GPU in another thread
    index = torch.cuda.current_device() if chosen.index is None else chosen.index
    return TensorPreparation(geometry_of, torch.device("cuda", index))


def prepared_exactly(source: Any, geometry_of: GeometryOf) -> Prepared:
    """The pixels that the references feed their networks: libjpeg-turbo's, resized by Pillow."""
    image = rgb_from(source)
    geometry = geometry_of(image)
    return Prepared(image, geometry, network_inputs([image], [geometry]))


class TensorPreparation:
    """Resizes with torchvision, antialiased as Pillow does it; a resized value can differ by 1.

    On a GPU nvJPEG decodes plain JPEGs, whose values can then differ by more; other files are decoded on the CPU.
    """

    def __init__(self, geometry_of: GeometryOf, device: torch.device) -> None:
        self._geometry_of, self._device = geometry_of, device

    def __call__(self, source: Any) -> Prepared:
        """Prepare one picture; see `rgb_from` for what it may be."""
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
