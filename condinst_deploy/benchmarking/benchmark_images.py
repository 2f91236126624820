"""The images that a model is timed on, and which of them make a batch."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from condinst_deploy.contract.artifacts import check_images
from condinst_deploy.data.shapes_dataset import ShapesConfig, image_of, scene_of
from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.decode import RGBArray, rgb_from
from condinst_deploy.imaging.image_files import existing_sources
from condinst_deploy.support.remote_files import is_url

GENERATED = 4
MOST = 64
"""Most images that are taken from a folder, in the order of names: all are opened before the first is timed."""

Source = Path | RGBArray


def given_images(sources: Sequence[str]) -> list[Path]:
    """The first images of the given files, folders and patterns.

    Raises:
        ImageError: not one is there, a folder has no images, or a pattern matches nothing.
        ConfigError: one is a URL, or a model by its name.
    """
    check_images(sources, "--model or --against")
    if any(map(is_url, sources)):
        raise ConfigError("a URL was given as an image; expected files on the disk: a network would be timed, too")
    files = existing_sources(sources) if sources else []
    return [file for file in files if isinstance(file, Path)][:MOST]


def generated_images(size: tuple[int, int], seed: int, count: int = GENERATED) -> list[RGBArray]:
    """Images `(height, width, 3)` of the generated shapes, the same for the same seed."""
    config = replace(ShapesConfig(), val_seed=seed, train_seed=seed + 1)
    height, width = size
    scenes = (image_of(scene_of(config, "val", i), config, "val", i) for i in range(count))
    return [np.asarray(Image.fromarray(scene).resize((width, height), Image.Resampling.BICUBIC)) for scene in scenes]


def decoded(source: Source) -> RGBArray:
    """The image of a file; an array stays as it is.

    Raises:
        ImageError: it cannot be read.
    """
    return source if isinstance(source, np.ndarray) else rgb_from(source)


class Batches:
    """Batches of images of equal padded shape, as the predictor makes them."""

    def __init__(self, sources: Sequence[Source], padded: Sequence[tuple[int, int]]) -> None:
        """`padded` is the size that the network sees of each."""
        self._sources = sources
        self._alike = [[i for i, shape in enumerate(padded) if shape == own] for own in padded]

    @property
    def first_of_shapes(self) -> list[int]:
        """Number of the first batch of every padded shape."""
        return [i for i, alike in enumerate(self._alike) if alike[0] == i]

    def batch(self, number: int, size: int) -> list[Source]:
        """Return the batch of an image: it and the next images of its shape, from the first again if too few."""
        leader = number % len(self._sources)
        alike = self._alike[leader]
        start = alike.index(leader)
        return [self._sources[alike[(start + k) % len(alike)]] for k in range(size)]
