"""Optimization profiles: the shapes that an engine accepts, and those that it is tuned for."""

import re
from collections.abc import Sequence
from itertools import pairwise

from condinst_deploy.contract import ModelManifest
from condinst_deploy.engine_manifest import EngineProfile, Shape, ShapeRange
from condinst_deploy.errors import ConfigError

IMAGES, IMAGE_SIZES = "images", "image_sizes"
EXAMPLE = "images=1x3x320x320:1x3x800x1344:8x3x1344x1344"
LARGEST_BATCH = 8
SMALLEST_SIDE = 320


def image_profile(smallest: Shape, usual: Shape, largest: Shape) -> EngineProfile:
    """The profile of an exported file from shapes `(B, 3, H, W)` of its images.

    Raises:
        ConfigError: the shapes are not in order, or not ones that the network takes.
    """
    _check_shapes(smallest, usual, largest)
    sizes = ((shape[0], 2) for shape in (smallest, usual, largest))
    return {IMAGES: ShapeRange(smallest, usual, largest), IMAGE_SIZES: ShapeRange(*sizes)}


def profile_from_text(text: str) -> EngineProfile:
    """Read `images=MIN:OPT:MAX`, each `Bx3xHxW`; the name may be left out.

    Raises:
        ConfigError: it has another form, or shapes that the network does not take.
    """
    shapes = text.removeprefix(f"{IMAGES}=").split(":")
    if len(shapes) != 3 or not all(re.fullmatch(r"\d+x\d+x\d+x\d+", shape) for shape in shapes):
        raise ConfigError(f"the profile is {text!r}; expected MIN:OPT:MAX of the images, for example {EXAMPLE}")
    smallest, usual, largest = (tuple(int(n) for n in shape.split("x")) for shape in shapes)
    try:
        return image_profile(smallest, usual, largest)
    except ConfigError as e:
        raise ConfigError(f"the profile {text!r} is impossible: {e}") from e


def profiles_for(manifest: ModelManifest, texts: Sequence[str]) -> tuple[EngineProfile, ...]:
    """Profiles that were asked for, or one that suits the model; none for a file of fixed shapes.

    Raises:
        ConfigError: profiles were asked for and the file's shapes are fixed; or one cannot be used.
    """
    static = manifest.static_shape
    if static is not None:
        if texts:
            fixed = "x".join(str(n) for n in static)
            raise ConfigError(f"the file has the fixed shape {fixed} and takes no profile; leave --shapes out")
        return ()
    return tuple(profile_from_text(text) for text in texts) or (default_profile(manifest),)


def default_profile(manifest: ModelManifest) -> EngineProfile:
    """Batches up to 8 of whatever the model's own resizing makes, tuned for one picture in landscape."""
    divisor = manifest.preprocessing.pad_divisor
    short, long = (-(-side // divisor) * divisor for side in _sides(manifest))
    smallest = min(SMALLEST_SIDE, short)
    return image_profile((1, 3, smallest, smallest), (1, 3, short, long), (LARGEST_BATCH, 3, long, long))


def _sides(manifest: ModelManifest) -> tuple[int, int]:
    return manifest.preprocessing.short_side, manifest.preprocessing.long_side


def _check_shapes(*shapes: Shape) -> None:
    for shape in shapes:
        if len(shape) != 4 or shape[1] != 3 or shape[0] < 1:
            raise ConfigError(f"{_text(shape)} is not a batch of RGB pictures; expected Bx3xHxW")
        if any(side < 32 or side % 32 for side in shape[2:]):
            raise ConfigError(f"{_text(shape)} has a side that is not a multiple of 32; pictures are padded to 32")
    for lower, upper in pairwise(shapes):
        if any(a > b for a, b in zip(lower, upper, strict=True)):
            raise ConfigError(f"{_text(lower)} is above {_text(upper)}; expected MIN <= OPT <= MAX on every axis")


def _text(shape: Shape) -> str:
    return "x".join(str(n) for n in shape)
