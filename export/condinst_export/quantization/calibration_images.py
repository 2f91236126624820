"""Images of a calibration: some of a user's folder, others of it held out to judge the result."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from condinst_deploy.contract import ImageGeometry, ModelManifest, NetworkInputs
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.runtime.preprocessing.batch import inputs_of_one
from condinst_deploy.support.digests import sha256_of_bytes, sha256_of_text
from condinst_export.quantization.calibration_folder import Divided, divided
from condinst_export.quantization.calibration_options import IMAGES


@dataclass(frozen=True)
class ImageSet:
    """Images of one model; iterating gives the same batches of one image each time."""

    paths: tuple[Path, ...]
    manifest: ModelManifest

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[NetworkInputs]:
        for path in self.paths:
            yield self.batch(path)[0]

    def batch(self, path: Path) -> tuple[NetworkInputs, ImageGeometry]:
        """One image as the product prepares it; a file of fixed shapes gets its batch filled up with blank images.

        Raises:
            ImageError: the image cannot be read.
        """
        return inputs_of_one(rgb_from(path), self.manifest)


@dataclass(frozen=True)
class CalibrationImages:
    """A folder, divided into images to calibrate on and images to judge by; no image is in both.

    Attributes:
        folder: with images, not searched recursively.
        manifest: of the model that they are prepared for.
        count: most images to calibrate on.
    """

    folder: Path
    manifest: ModelManifest
    count: int = IMAGES

    def __post_init__(self) -> None:
        """Check the folder.

        Raises:
            ConfigError: it has too few images.
            ImageError: it has none.
        """
        self._divided  # noqa: B018  (it looks into the folder once)

    @cached_property
    def _divided(self) -> Divided:
        return divided(self.folder, self.count)

    @property
    def held_out(self) -> ImageSet:
        """A fifth of the folder at most, evenly spread."""
        return ImageSet(self._divided.held_out, self.manifest)

    @property
    def calibration(self) -> ImageSet:
        """Up to `count` of the other images, evenly spread."""
        return ImageSet(self._divided.calibration, self.manifest)


class InputsHash:
    """SHA-256 over all batches that a network was given."""

    def __init__(self) -> None:
        self._parts: list[str] = []

    def add(self, batch: NetworkInputs) -> None:
        """Take one batch, shapes and all."""
        for array in batch:
            content = sha256_of_bytes(np.ascontiguousarray(array).tobytes())
            self._parts.append(f"{array.shape} {array.dtype} {content}\n")

    def hexdigest(self) -> str:
        """Return the digest of the batches so far."""
        return sha256_of_text("".join(self._parts))
