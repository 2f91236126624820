"""Images of a calibration: some of a user's folder, others of it held out to judge the result."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from condinst_deploy.contract import ImageGeometry, ModelManifest, NetworkInputs
from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.decode import expand_sources, rgb_from
from condinst_deploy.runtime.preprocessing.batch import inputs_of_one
from condinst_deploy.support.digests import sha256_of_bytes, sha256_of_text
from condinst_export.quantization.calibration_options import IMAGES

HELD_OUT = 50
"""Most images that the result is evaluated on."""

LEAST_FOLDER = 2
"""One image to calibrate on and one to judge by."""


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
        if len(self._found) < LEAST_FOLDER:
            raise ConfigError(
                f"{self.folder} holds {len(self._found)} image; expected at least {LEAST_FOLDER}: some to calibrate on"
                " and others to judge by. A hundred of the kind that the model will see are a good number"
            )

    @cached_property
    def _found(self) -> list[Path]:
        return [Path(path) for path in expand_sources(self.folder)]

    @property
    def held_out(self) -> ImageSet:
        """A fifth of the folder at most, evenly spread."""
        found = self._found
        return ImageSet(tuple(spread(found, max(1, min(HELD_OUT, len(found) // 5)))), self.manifest)

    @property
    def calibration(self) -> ImageSet:
        """Return up to `count` of the other images, evenly spaced."""
        judged = set(self.held_out.paths)
        others = [path for path in self._found if path not in judged]
        return ImageSet(tuple(spread(others, self.count)), self.manifest)


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """At most `count` of the paths, at even distances."""
    if len(paths) <= count:
        return list(paths)
    return [paths[i * len(paths) // count] for i in range(count)]


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
