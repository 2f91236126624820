"""The network's input on the host: single images and batches."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from condinst_deploy.contract import ImageGeometry, ModelManifest, NetworkInputs, Preprocessing
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.imaging.resize import resized_image
from condinst_deploy.runtime.host_inputs import blank_inputs, inputs_of_image, inputs_of_resized, write_resized

if TYPE_CHECKING:
    from torch import Tensor


class HostWriter:
    """The `InputWriter` of backends that read numpy arrays."""

    def from_image(self, image: RGBArray, geometry: ImageGeometry) -> NetworkInputs:
        """Resize `(H, W, 3)` uint8 with Pillow, and write it."""
        return inputs_of_image(image, geometry)

    def from_tensor(self, resized: "Tensor", geometry: ImageGeometry) -> NetworkInputs:
        """Write `(3, h, w)` uint8 from any device."""
        return inputs_of_resized(resized.cpu().numpy().transpose(1, 2, 0), geometry)


def network_inputs(
    images: Sequence[RGBArray], geometries: Sequence[ImageGeometry], batch: int | None = None
) -> NetworkInputs:
    """Resize each image and pad all images to the largest, as both reference implementations do.

    Normalising and the zeroing of the padding happen inside the network.

    Args:
        images: `(H, W, 3)` uint8 RGB.
        geometries: the sizes of each image, from `ImageGeometry.of`.
        batch: the number of images that the network takes; missing images are blank. None: as many as given.
    """
    height = max(geometry.padded[0] for geometry in geometries)
    width = max(geometry.padded[1] for geometry in geometries)
    inputs = blank_inputs(batch or len(images), height, width)
    for i, (image, geometry) in enumerate(zip(images, geometries, strict=True)):
        write_resized(inputs, i, resized_image(image, geometry.resized), geometry)
    return inputs


def inputs_of_one(
    image: RGBArray, manifest: ModelManifest, preprocessing: Preprocessing | None = None
) -> tuple[NetworkInputs, ImageGeometry]:
    """Prepare one image for a model's file; one of fixed shapes gets its batch filled up with blank images.

    Args:
        image: `(H, W, 3)` uint8 RGB.
        manifest: of the file.
        preprocessing: sizes; None: the manifest's.
    """
    static = manifest.static_shape
    size = (image.shape[0], image.shape[1])
    geometry = ImageGeometry.of(size, preprocessing or manifest.preprocessing, static[1:] if static else None)
    return network_inputs([image], [geometry], static[0] if static else None), geometry


def stacked(parts: Sequence[NetworkInputs], batch: int | None = None) -> NetworkInputs:
    """Concatenate inputs of equal padded shape. The values are those of images that were prepared together.

    Args:
        parts: inputs of one image or more each.
        batch: the number of images that the network takes; missing images are blank. None: as many as given.
    """
    missing = (batch or 0) - sum(len(part.images) for part in parts)
    if missing > 0:
        parts = [*parts, blank_inputs(missing, *parts[0].images.shape[2:])]
    if len(parts) == 1:
        return parts[0]
    return NetworkInputs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
