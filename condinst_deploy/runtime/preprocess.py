"""RGB pictures -> the network's input, as both reference implementations prepare it."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from condinst_deploy.contract import ImageGeometry, NetworkInputs
from condinst_deploy.runtime.images import RGBArray


def network_inputs(
    images: Sequence[RGBArray], geometries: Sequence[ImageGeometry], batch: int | None = None
) -> NetworkInputs:
    """Resize each picture (Pillow's antialiased bilinear on uint8) and pad all to the largest.

    Normalising and the zeroing of the padding happen inside the network.

    Args:
        images: `(H, W, 3)` uint8 RGB.
        geometries: sizes of each, as `ImageGeometry.of` gives them.
        batch: number of pictures that the network wants; missing ones are blank. None: as many as given.
    """
    height = max(geometry.padded[0] for geometry in geometries)
    width = max(geometry.padded[1] for geometry in geometries)
    count = batch or len(images)
    pixels = np.zeros((count, 3, height, width), dtype=np.uint8)
    sizes = np.full((count, 2), (height, width), dtype=np.int32)
    for i, (image, geometry) in enumerate(zip(images, geometries, strict=True)):
        h, w = geometry.resized
        resized = Image.fromarray(image).resize((w, h), Image.Resampling.BILINEAR)
        pixels[i, :, :h, :w] = np.asarray(resized).transpose(2, 0, 1)
        sizes[i] = h, w
    return NetworkInputs(pixels, sizes)
