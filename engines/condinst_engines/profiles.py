"""Optimization profiles: the shapes that an engine accepts, and those that it is tuned for."""

import re
from collections.abc import Sequence
from itertools import pairwise

from condinst_deploy.contract import ImageGeometry, ModelManifest
from condinst_deploy.contract.engine_manifest import EngineProfile, Shape, ShapeRange
from condinst_deploy.errors import ConfigError
from condinst_engines.build_recipe import BuildRecipe

IMAGES, IMAGE_SIZES = "images", "image_sizes"
EXAMPLE = "images=1x3x320x320:1x3x800x1344:8x3x1344x1344"
LARGEST_SIDE = 2**31 - 1
EVERYDAY_RATIOS = ((3, 1), (16, 9), (4, 3), (1, 1), (3, 4), (9, 16), (1, 3))
"""Width and height of images that a profile should take."""


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
    if len(shapes) != 3 or not all(re.fullmatch(r"[0-9]{1,25}(x[0-9]{1,25}){3}", shape) for shape in shapes):
        raise ConfigError(f"the profile is {text!r}; expected MIN:OPT:MAX of the images, for example {EXAMPLE}")
    smallest, usual, largest = (tuple(int(n) for n in shape.split("x")) for shape in shapes)
    try:
        return image_profile(smallest, usual, largest)
    except ConfigError as e:
        raise ConfigError(f"the profile {text!r} is impossible: {e}") from e


def profiles_for(manifest: ModelManifest, recipe: BuildRecipe, texts: Sequence[str] = ()) -> tuple[EngineProfile, ...]:
    """Profiles that were asked for, or those of the recipe; none for a file of fixed shapes.

    Args:
        manifest: of the exported file.
        recipe: its profiles are taken where `texts` is empty, and else its batches at the model's own sizes.
        texts: profiles that come before the recipe's (`--shapes`).

    Raises:
        ConfigError: `texts` are given and the file's shapes are fixed; or a profile cannot be used.
    """
    static = manifest.static_shape
    if static is not None:
        if texts:
            fixed = "x".join(str(n) for n in static)
            raise ConfigError(f"the file has the fixed shape {fixed} and takes no profile; leave --shapes out")
        return ()
    asked = tuple(profile_from_text(text) for text in texts or recipe.profiles)
    return asked or tuple(model_profile(manifest, batches_from_text(text)) for text in recipe.batches)


def model_profile(manifest: ModelManifest, batches: tuple[int, int, int] = (1, 8, 8)) -> EngineProfile:
    """Every size that the model's own resizing makes, tuned for landscape.

    A long image's short side can be anything down to the padding, so sides begin there.

    Args:
        manifest: of the exported file.
        batches: smallest, usual and largest number of images.
    """
    divisor = manifest.preprocessing.pad_divisor
    short, long = (-(-side // divisor) * divisor for side in _sides(manifest))
    smallest, usual, largest = batches
    return image_profile((smallest, 3, divisor, divisor), (usual, 3, short, long), (largest, 3, long, long))


def remark_on(manifest: ModelManifest, recipe: BuildRecipe, profiles: Sequence[EngineProfile]) -> str | None:
    """Return a warning about the profiles: they are not used, or refuse common image sizes; None if there is none."""
    if manifest.static_shape is not None:
        return "the recipe's profiles are not used: the file has fixed shapes" if recipe.profiles else None
    ratios = [(w, h) for w, h in EVERYDAY_RATIOS if not _takes(profiles, _padded(manifest, w, h))]
    if not ratios:
        return None
    left_out = ", ".join(f"{w}:{h} ({'x'.join(str(n) for n in _padded(manifest, w, h))})" for w, h in ratios)
    return f"the profiles leave out images that the model resizes to (HxW): {left_out}; the engine will refuse them"


def _padded(manifest: ModelManifest, width: int, height: int) -> tuple[int, int]:
    """Return the padded shape of a large image of that aspect ratio."""
    return ImageGeometry.of((1000 * height, 1000 * width), manifest.preprocessing).padded


def _takes(profiles: Sequence[EngineProfile], size: tuple[int, int]) -> bool:
    return any(p[IMAGES].covers((p[IMAGES].min[0], 3, *size)) for p in profiles)


def batches_from_text(text: str) -> tuple[int, int, int]:
    """Read `MIN:OPT:MAX`.

    Raises:
        ConfigError: it has another form, or the numbers are not in order.
    """
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4}):(\d{1,4})", text)
    if found is None:
        raise ConfigError(f"the batches are {text!r}; expected MIN:OPT:MAX, for example 1:1:8")
    smallest, usual, largest = (int(n) for n in found.groups())
    if not 1 <= smallest <= usual <= largest:
        raise ConfigError(f"the batches are {text!r}; expected 1 <= MIN <= OPT <= MAX")
    return smallest, usual, largest


def _sides(manifest: ModelManifest) -> tuple[int, int]:
    return manifest.preprocessing.short_side, manifest.preprocessing.long_side


def _check_shapes(*shapes: Shape) -> None:
    for shape in shapes:
        if len(shape) != 4 or shape[1] != 3 or shape[0] < 1:
            raise ConfigError(f"{_text(shape)} is not a batch of RGB images; expected Bx3xHxW")
        if any(n > LARGEST_SIDE for n in shape):
            raise ConfigError(f"{_text(shape)} has a number above {LARGEST_SIDE}; a tensor cannot be that large")
        if any(side < 32 or side % 32 for side in shape[2:]):
            raise ConfigError(f"{_text(shape)} has a side that is not a multiple of 32; images are padded to 32")
    for lower, upper in pairwise(shapes):
        if any(a > b for a, b in zip(lower, upper, strict=True)):
            raise ConfigError(f"{_text(lower)} is above {_text(upper)}; expected MIN <= OPT <= MAX on every axis")


def _text(shape: Shape) -> str:
    return "x".join(str(n) for n in shape)
