"""RGB images -> the network's input, as both reference implementations prepare it."""

from collections.abc import Sequence

import numpy as np

from condinst_deploy.contract import ImageGeometry, NetworkInputs
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.imaging.resize import resized_image


def network_inputs(
    images: Sequence[RGBArray], geometries: Sequence[ImageGeometry], batch: int | None = None
) -> NetworkInputs:
    """Resize each image (Pillow's antialiased bilinear on uint8) and pad all to the largest.

    Normalising and the zeroing of the padding happen inside the network.

    Args:
        images: `(H, W, 3)` uint8 RGB.
        geometries: sizes of each, as `ImageGeometry.of` gives them.
        batch: number of images that the network wants; missing ones are blank. None: as many as given.
    """
    height = max(geometry.padded[0] for geometry in geometries)
    width = max(geometry.padded[1] for geometry in geometries)
    inputs = blank_inputs(batch or len(images), height, width)
    for i, (image, geometry) in enumerate(zip(images, geometries, strict=True)):
        h, w = geometry.resized
        inputs.images[i, :, :h, :w] = resized_image(image, (h, w)).transpose(2, 0, 1)  # (h, w, 3) -> (3, h, w)
        inputs.image_sizes[i] = h, w
    return inputs


def blank_inputs(batch: int, height: int, width: int) -> NetworkInputs:
    """Black images that fill the network's input."""
    pixels = np.zeros((batch, 3, height, width), dtype=np.uint8)
    return NetworkInputs(pixels, np.full((batch, 2), (height, width), dtype=np.int32))


def stacked(parts: Sequence[NetworkInputs], batch: int | None = None) -> NetworkInputs:
    """One batch of inputs of equal padded shape; the same values as if they had been prepared together.

    Args:
        parts: inputs of one image or more each.
        batch: number of images that the network wants; missing ones are blank. None: as many as given.
    """
    missing = (batch or 0) - sum(len(part.images) for part in parts)
    if missing > 0:
        parts = [*parts, blank_inputs(missing, *parts[0].images.shape[2:])]
    if len(parts) == 1:
        return parts[0]
    return NetworkInputs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
