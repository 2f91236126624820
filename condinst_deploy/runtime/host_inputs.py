"""The network's input on the host: memory and how images are written into it."""

import numpy as np

from condinst_deploy.contract import ImageGeometry, NetworkInputs
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.imaging.resize import resized_image


def blank_inputs(batch: int, height: int, width: int) -> NetworkInputs:
    """Return black images that fill the network's input."""
    pixels = np.zeros((batch, 3, height, width), dtype=np.uint8)
    return NetworkInputs(pixels, np.full((batch, 2), (height, width), dtype=np.int32))


def write_resized(inputs: NetworkInputs, i: int, resized: RGBArray, geometry: ImageGeometry) -> None:
    """Write a resized image `(h, w, 3)` uint8 into place `i` of blank inputs."""
    height, width = geometry.resized
    inputs.images[i, :, :height, :width] = resized.transpose(2, 0, 1)  # (h, w, 3) -> (3, h, w)
    inputs.image_sizes[i] = height, width


def inputs_of_resized(resized: RGBArray, geometry: ImageGeometry) -> NetworkInputs:
    """Return a batch of one resized image `(h, w, 3)` uint8."""
    inputs = blank_inputs(1, *geometry.padded)
    write_resized(inputs, 0, resized, geometry)
    return inputs


def inputs_of_image(image: RGBArray, geometry: ImageGeometry) -> NetworkInputs:
    """Resize an image `(H, W, 3)` uint8 with Pillow, and return a batch of it alone."""
    return inputs_of_resized(resized_image(image, geometry.resized), geometry)
