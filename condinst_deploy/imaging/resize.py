"""Resizing of images, the same for training and inference."""

import numpy as np
from PIL import Image

from condinst_deploy.imaging.decode import RGBArray


def resized_image(image: RGBArray, size: tuple[int, int]) -> RGBArray:
    """Resize with Pillow's antialiased bilinear filter on uint8, as both reference implementations do.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        size: `(h, w)` in pixels, each at least 1.

    Returns:
        `(h, w, 3)` uint8 RGB. The array may be read-only.
    """
    height, width = size
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
