"""A generated data set of textured ellipses, rotated rectangles and concave stars, which differ by shape alone.

Image i of a split depends on the split's seed and i only. Outlines lie on a grid of 1/16 pixel and everything
after them is integer arithmetic, so that every machine makes the same annotations and the same pixels.
"""

import math
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from condinst_deploy.data.shape_outlines import OUTLINES, between, cut_in_two, rasterised, turned, whole_between
from condinst_deploy.errors import ConfigError, OutputError
from condinst_deploy.masks import BoolArray, Masks, trimmed_crop
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.atomic_folder import temporary_folder
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.digests import sha256_of_text
from condinst_deploy.support.folder_lock import locked_folder
from condinst_deploy.support.json_text import json_text
from condinst_deploy.support.option_types import check_types

Split = Literal["train", "val"]
PixelArray = npt.NDArray[np.int16]

CLASS_NAMES = ("ellipse", "rectangle", "star")
"""Labels 0, 1, 2; category ids are one more. An L is a star, too: both are concave."""

TRAIN_COUNT = 5000
VAL_COUNT = 500

VALIDATION_SHA256 = "4401b8a4ffb14a741ba018cc1fb8a34fcf3a7dd1197af6f5638e023f9087fb0c"
"""SHA-256 of `val.json` with the default configuration and `VAL_COUNT` images."""

VERSION = 1
"""Version of the generator; sets of another version are generated again."""

TRIES = 20  # proposals for each object wanted; a crowded image ends with fewer objects
SPLIT_SIDE = 36  # objects with a longer side below so many pixels stay in one part


@dataclass(frozen=True)
class ShapesConfig:
    """Settings of the generated images; the committed results were measured with the defaults."""

    size: int = 192  # pixels, height and width
    objects: tuple[int, int] = (2, 8)  # fewest and most in an image
    sides: tuple[int, int] = (12, 120)  # pixels, of the upright box of an object that nothing hides
    min_visible: float = 0.4  # share of every object's pixels
    two_parts: float = 0.15  # probability that an object is cut in two by a band
    contrast: int = 90  # least distance of two surfaces' colours, summed over the channels
    noise: int = 16  # largest amplitude of a surface's noise
    train_seed: int = 1
    val_seed: int = 2

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a range is empty, does not fit the image, or the splits share a seed.
        """
        check_types(self)
        if not 1 <= self.objects[0] <= self.objects[1] <= 100:
            raise ConfigError(f"objects are {shown_value(self.objects)}; expected fewest and most in 1..100")
        if not 4 <= self.sides[0] <= self.sides[1] <= self.size:
            raise ConfigError(
                f"sides are {shown_value(self.sides)}; expected least and largest in 4..{shown_value(self.size)}"
            )
        for name, limit in (("min_visible", 1), ("two_parts", 1), ("contrast", 127), ("noise", 127)):
            if not 0 <= getattr(self, name) <= limit:
                raise ConfigError(f"{name} is {shown_value(getattr(self, name))}; expected 0..{limit}")
        if self.train_seed == self.val_seed:
            raise ConfigError(f"both splits have seed {shown_value(self.val_seed)}; expected different ones")


@dataclass(frozen=True, eq=False)
class Shape:
    """One object as it would be seen with nothing in front of it."""

    label: int
    top: int  # first row of its upright box
    left: int  # first column
    mask: BoolArray  # (h, w) of its upright box

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of its upright box."""
        height, width = self.mask.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


@dataclass(frozen=True, eq=False)
class Scene:
    """Objects of one image."""

    shapes: tuple[Shape, ...]  # the last is in front
    owner: npt.NDArray[np.int8]  # (size, size) index of the shape seen at a pixel, -1 for the background

    def visible(self) -> Masks:
        """Return the visible part of each shape."""
        crops = [self.owner[shape.window] == i for i, shape in enumerate(self.shapes)]
        offsets = np.array([(shape.top, shape.left) for shape in self.shapes], dtype=np.int64).reshape(-1, 2)
        return Masks.from_crops((self.owner.shape[0], self.owner.shape[1]), offsets, crops)


def generate_shapes(
    folder: Path,
    split: Split,
    count: int,
    config: ShapesConfig | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write `<folder>/<split>/000001.png`, ... and `<folder>/<split>.json`, unless the same set is there.

    A set is whole or not there; one of other settings is made again. After each image `on_progress` is called with
    how many of `count` are done.

    Returns:
        The path of the annotations, in COCO's format; segmentations are RLEs of what is seen.

    Raises:
        ConfigError: the objects do not fit into the images, `count` is below 1, or another run writes the set.
        OutputError: the set cannot be written, or its names belong to something else.
    """
    config = config or ShapesConfig()
    if count < 1:
        raise ConfigError(f"the count of images is {count}; expected at least 1")
    images, annotations, stamp = folder / split, folder / f"{split}.json", folder / f"{split}.stamp"
    fingerprint = fingerprint_of(split, count, config)
    if _is_whole(images, annotations, stamp, fingerprint, count):
        return annotations
    if not stamp.is_file() and (images.exists() or annotations.exists()):
        raise OutputError(f"{images} or {annotations} is there, but no generated set; choose another folder")
    with locked_folder(folder):
        with _replaced_folder(images, stamp) as temporary:
            document = coco_document(_saved(temporary, split, count, config, on_progress), split, config)
        _write(annotations, document)
        _write(stamp, fingerprint)
    return annotations


def fingerprint_of(split: Split, count: int, config: ShapesConfig, version: int = VERSION) -> str:
    """The identity of a set, which lies beside it: a set of another identity is made again."""
    return sha256_of_text(repr((version, split, count, config)))


def scene_of(config: ShapesConfig, split: Split, index: int) -> Scene:
    """Place the objects of image `index` (from 0) of a split.

    Raises:
        ConfigError: fewer objects than the least find room.
    """
    rng = _random(config, split, index, 0)
    wanted = whole_between(rng, *config.objects)
    owner = np.full((config.size, config.size), -1, dtype=np.int8)
    shapes: list[Shape] = []
    for _ in range(wanted * TRIES):
        shape = _proposal(config, rng)
        if shape is not None and _leaves_enough(shape, shapes, owner, config.min_visible):
            owner[shape.window][shape.mask] = len(shapes)
            shapes.append(shape)
        if len(shapes) == wanted:
            break
    if len(shapes) < config.objects[0]:
        raise ConfigError(f"only {len(shapes)} objects find room in an image of {config}; make them smaller or fewer")
    return Scene(tuple(shapes), owner)


def image_of(scene: Scene, config: ShapesConfig, split: Split, index: int) -> npt.NDArray[np.uint8]:
    """Paint a scene `(size, size, 3)`: every surface has a colour, blotches, perhaps a pattern, and noise."""
    rng = _random(config, split, index, 1)
    colours = _colours(rng, len(scene.shapes) + 1, config.contrast)
    blotches = _blotches(rng, config.size)
    canvas = _surface(rng, colours[0], blotches, (slice(0, config.size), slice(0, config.size)))  # (3, size, size)
    for i, shape in enumerate(scene.shapes):
        surface = _surface(rng, colours[i + 1], blotches, shape.window)
        np.copyto(canvas[:, *shape.window], surface, where=scene.owner[shape.window] == i)
    amplitudes = rng.integers(0, config.noise + 1, len(colours), dtype=np.int16)
    noise = rng.integers(-128, 128, canvas.shape, dtype=np.int8)
    canvas += (noise * amplitudes[scene.owner + 1]) >> 7
    return np.ascontiguousarray(canvas.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def coco_document(scenes: Iterable[Scene], split: Split, config: ShapesConfig) -> str:
    """The annotations of images 1, 2, ... as canonical JSON: sorted keys, no spaces."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, scene in enumerate(scenes, start=1):
        name = f"{image_id:06d}.png"
        images.append({"id": image_id, "file_name": name, "height": config.size, "width": config.size})
        annotations += _annotations(scene, image_id, len(annotations) + 1)
    document = {
        "info": {"description": f"condinst-deploy shapes, {split}", "version": VERSION, "config": asdict(config)},
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASS_NAMES, start=1)],
        "images": images,
        "annotations": annotations,
    }
    return json_text(document, "the annotations", sort_keys=True)


def _annotations(scene: Scene, image_id: int, first_id: int) -> list[dict[str, Any]]:
    masks = scene.visible()
    parts = zip(scene.shapes, masks.windows, masks.areas.tolist(), masks.rle(), strict=True)
    return [
        {
            "id": annotation_id,
            "image_id": image_id,
            "category_id": shape.label + 1,
            "iscrowd": 0,
            "area": area,
            "bbox": [window.x, window.y, window.width, window.height],
            "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
        }
        for annotation_id, (shape, window, area, rle) in enumerate(parts, start=first_id)
    ]


def _is_whole(images: Path, annotations: Path, stamp: Path, fingerprint: str, count: int) -> bool:
    there = stamp.is_file() and annotations.is_file() and stamp.read_text() == fingerprint
    return there and sum(1 for _ in images.glob("*.png")) == count


def _saved(
    folder: Path, split: Split, count: int, config: ShapesConfig, on_progress: Callable[[int, int], None] | None
) -> Iterator[Scene]:
    for index in range(count):
        scene = scene_of(config, split, index)
        image = Image.fromarray(image_of(scene, config, split, index))
        image.save(folder / f"{index + 1:06d}.png", compress_level=1, compress_type=zlib.Z_HUFFMAN_ONLY)
        if on_progress is not None:
            on_progress(index + 1, count)
        yield scene


@contextmanager
def _replaced_folder(folder: Path, stamp: Path) -> Iterator[Path]:
    """A new folder that takes the place of `folder` when the block ends well."""
    try:
        with temporary_folder(folder) as temporary:
            yield temporary
            _write(stamp, "unfinished")  # until images and annotations go together again
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
    except OSError as e:
        raise OutputError(f"{folder} cannot be written ({e.strerror or e}); choose another folder") from e


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text)


def _random(config: ShapesConfig, split: Split, index: int, stream: int) -> np.random.Generator:
    seed = config.train_seed if split == "train" else config.val_seed
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, index, stream))))


def _leaves_enough(shape: Shape, shapes: list[Shape], owner: npt.NDArray[np.int8], min_visible: float) -> bool:
    """Return whether every shape stays visible enough with `shape` in front."""
    covered = np.bincount(owner[shape.window][shape.mask] + 1, minlength=len(shapes) + 1)[1:]
    return all(
        np.count_nonzero(owner[other.window] == i) - covered[i] >= min_visible * np.count_nonzero(other.mask)
        for i, other in enumerate(shapes)
        if covered[i]
    )


def _proposal(config: ShapesConfig, rng: np.random.Generator) -> Shape | None:
    """A random object inside the image; None if its box has other sides than wanted."""
    label = whole_between(rng, 0, len(CLASS_NAMES) - 1)
    low, high = config.sides
    longer = between(rng, low, high)
    shorter = max(low, longer * between(rng, 0.45, 1.0))
    mask = rasterised(turned(OUTLINES[label](rng) * (longer, shorter), rng))
    if rng.random() < config.two_parts and longer >= SPLIT_SIDE:
        mask = cut_in_two(mask, rng)
    mask = trimmed_crop(mask)[1]
    if not (mask.size and low <= min(mask.shape) and max(mask.shape) <= high):
        return None
    top, left = (whole_between(rng, 0, config.size - side) for side in mask.shape)
    return Shape(label, top, left, mask)


def _colours(rng: np.random.Generator, count: int, contrast: int) -> PixelArray:
    """Colours `(count, 3)`, as far from each other as wanted while they are easily found."""
    chosen = rng.integers(24, 232, (1, 3), dtype=np.int16)
    while len(chosen) < count:
        candidates = rng.integers(24, 232, (16, 3), dtype=np.int16)
        distances = np.abs(candidates[:, None] - chosen).sum(axis=2).min(axis=1)  # (16,)
        best = distances.clip(max=contrast).argmax()
        chosen = np.concatenate((chosen, candidates[best : best + 1]))
    return chosen


def _blotches(rng: np.random.Generator, size: int) -> PixelArray:
    """Smooth random field `(3, size, size)` in -128..127."""
    cells = whole_between(rng, 3, 10)
    coarse = rng.integers(-128, 128, (3, cells + 1, cells + 1)).astype(np.float32)
    position = np.arange(size)[:, None] * 16 * cells // size  # 1/16 cell
    weights = (16 - np.abs(position - 16 * np.arange(cells + 1))).clip(0).astype(np.float32)  # linear interpolation
    # whole numbers below 2**24: float32 products are exact in any order
    return np.asarray((weights @ coarse @ weights.T).astype(np.int32) >> 8, dtype=np.int16)


def _surface(
    rng: np.random.Generator, colour: PixelArray, blotches: PixelArray, window: tuple[slice, slice]
) -> PixelArray:
    """Texture `(3, h, w)` of a window of the image."""
    strengths = rng.integers(-48, 49, (3, 1, 1), dtype=np.int16)
    surface = (blotches[:, *window] * strengths) // 128 + colour[:, None, None]
    kind = whole_between(rng, 0, 3)
    if kind < 2:
        return np.asarray(surface)  # half of all are plain
    y, x = np.ogrid[window]
    a, b = int(rng.integers(-8, 9)), int(rng.integers(1, 9))
    width = whole_between(rng, 3, 12) * math.isqrt(a * a + b * b)
    marks = (a * x + b * y) // width % 2
    if kind == 3:
        marks ^= (b * x - a * y) // width % 2
    return np.asarray(surface + marks.astype(np.int16) * rng.integers(-40, 41, (3, 1, 1), dtype=np.int16))
