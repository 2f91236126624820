"""Images that ranges are measured on: the user's, or a built-in set of photographs and generated images."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from condinst_deploy.contract import ModelManifest, NetworkInputs
from condinst_deploy.data.shapes_dataset import ShapesConfig, image_of, scene_of
from condinst_deploy.imaging.decode import RGBArray, rgb_from
from condinst_deploy.imaging.image_files import expand_sources
from condinst_deploy.runtime.preprocessing.batch import inputs_of_one

MOST_IMAGES, MOST_SMALL = 32, 8
"""Images of a user's folder that are used at the model's own size, and at each of the small sizes."""

SMALL_SIDES = (128, 64, 32)
"""Short sides at which the coarsest level has 1x1 to a few cells."""

BUILT_IN = "built-in set"


@dataclass(frozen=True)
class RangeImages:
    """Batches for one model; iterating gives the same ones every time."""

    manifest: ModelManifest
    folder: Path | None = None  # of the user's images; None: the built-in set

    @property
    def source(self) -> str:
        """Return a short description of the images' source."""
        return BUILT_IN if self.folder is None else self.folder.name

    def __len__(self) -> int:
        return sum(1 for _ in self._plan())

    def __iter__(self) -> Iterator[NetworkInputs]:
        for image, side in self._plan():
            yield self._batch(image if isinstance(image, np.ndarray) else rgb_from(image), side)

    def _batch(self, image: RGBArray, side: int | None) -> NetworkInputs:
        preprocessing = self.manifest.preprocessing
        if side is not None:
            preprocessing = replace(preprocessing, short_side=side, long_side=max(side, preprocessing.long_side))
        return inputs_of_one(image, self.manifest, preprocessing)[0]

    def _plan(self) -> Iterator[tuple[Path | RGBArray, int | None]]:
        """Images and their short sides; None: the model's own."""
        own, extra = self._sources()
        yield from ((image, None) for image in own)
        if self.manifest.static_shape is not None:
            yield from ((image, None) for image in extra)
            return
        middle = self.manifest.preprocessing.short_side // 2
        sides = [side for side in SMALL_SIDES if side < middle]
        yield from ((image, middle) for image in extra)
        for side in sides:
            yield from ((image, side) for image in (*own[:MOST_SMALL], *extra))

    def _sources(self) -> tuple[Sequence[Path | RGBArray], Sequence[Path | RGBArray]]:
        """Images at the model's own size, and those that smaller sizes are enough for."""
        if self.folder is None:
            return built_in_images()
        return images_of(self.folder), []


def images_of(folder: Path) -> list[Path]:
    """At most `MOST_IMAGES` images of a folder, at even distances.

    Raises:
        ImageError: it has none.
    """
    found = [Path(path) for path in expand_sources(folder)]
    return found[:: max(1, -(-len(found) // MOST_IMAGES))]


def built_in_images() -> tuple[Sequence[RGBArray], Sequence[RGBArray]]:
    """Photographs, shapes and noise; then flat images, and strips whose coarsest level is one cell wide."""
    rng = np.random.default_rng(0)
    folder = Path(str(files("condinst_export") / "images"))
    coffee, astronaut = (rgb_from(folder / f"{name}.jpg") for name in ("coffee", "astronaut"))
    config = ShapesConfig()
    # of the training split: accuracy is measured on the other
    shapes = [image_of(scene_of(config, "train", i), config, "train", i) for i in range(3)]
    noise = rng.integers(0, 256, (192, 256, 3), dtype=np.uint8)
    flat = [np.full((96, 128, 3), value, dtype=np.uint8) for value in (0, 124, 255)]
    strips = [np.ascontiguousarray(coffee[:40]), rng.integers(0, 256, (240, 48, 3), dtype=np.uint8)]
    return [coffee, astronaut, shapes[0], noise], [*flat, *strips, *shapes[1:]]
