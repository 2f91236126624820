"""A few padded sizes for images of many sizes, so that more of them share a batch."""

import re
from collections.abc import Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, cast

from condinst_deploy.contract import ImageGeometry, ModelManifest
from condinst_deploy.contract.model_settings import LARGEST_SIDE
from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.preprocessing.types import GeometryOf
from condinst_deploy.shown_text import shown_value

Canvas = tuple[int, int]
"""Height and width of a padded image."""


def geometry_for(backend: Backend, canvases: Sequence[Canvas] | None) -> GeometryOf:
    """Return `backend.geometry`, on these canvases if there are any (`on_canvases`)."""
    return backend.geometry if canvases is None else on_canvases(backend, canvases)


def on_canvases(backend: Backend, canvases: Sequence[Canvas]) -> GeometryOf:
    """Return `backend.geometry` with images padded to the smallest canvas that holds them.

    An image that no canvas holds keeps its own padded size.

    Raises:
        ConfigError: a canvas is not two multiples of the model's divisor, or the model has a fixed size.
    """
    chosen = canvases_for(backend.manifest, canvases)

    def geometry_of(image: RGBArray) -> ImageGeometry:
        geometry = backend.geometry(image)
        return replace(geometry, padded=smallest(chosen, geometry.padded))

    return geometry_of


def canvases_for(manifest: ModelManifest, canvases: Sequence[Canvas]) -> list[Canvas]:
    """Return canvases that a model takes.

    Raises:
        ConfigError: a canvas is not two multiples of the model's divisor, or the model has a fixed size.
    """
    if manifest.static_shape is not None:
        raise ConfigError(
            f"canvases are given for a model of the fixed size {'x'.join(map(str, manifest.static_shape[1:]))};"
            " it pads all images to that size already"
        )
    return _checked(canvases, manifest.preprocessing.pad_divisor)


def smallest(canvases: Sequence[Canvas], padded: Canvas) -> Canvas:
    """Return the smallest canvas that holds a padded size; the size itself if none does."""
    holding = [canvas for canvas in canvases if canvas[0] >= padded[0] and canvas[1] >= padded[1]]
    return min(holding, key=lambda canvas: canvas[0] * canvas[1], default=padded)


def canvas_from(text: str, option: str) -> Canvas:
    """Return `(height, width)` of a canvas as it is typed, "800x1344".

    Raises:
        ConfigError: it is none.
    """
    height, _, width = text.lower().partition("x")
    if not all(re.fullmatch("[0-9]{1,9}", side) for side in (height, width)):
        raise ConfigError(f"{option} is {shown_value(text)}; expected HEIGHTxWIDTH in pixels of the network: 800x1344")
    return int(height), int(width)


def canvases_as_json(canvases: Sequence[Canvas] | None) -> list[list[int]] | None:
    """Canvases as JSON values."""
    return None if canvases is None else [list(map(int, canvas)) for canvas in canvases]


def canvases_from_json(value: Any) -> tuple[Canvas, ...] | None:
    """Canvases that `canvases_as_json` wrote.

    Raises:
        TypeError, ValueError: they are none.
    """
    return None if value is None else tuple((int(height), int(width)) for height, width in value)


def _checked(canvases: Sequence[Canvas], divisor: int) -> list[Canvas]:
    given: object = canvases
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise ConfigError(f"canvases is {shown_value(given)}; expected pairs of height and width, [(800, 1344)]")
    for canvas in given:
        pair = isinstance(canvas, Sequence) and len(canvas) == 2
        if not pair or not all(_is_side(side, divisor) for side in canvas):
            raise ConfigError(
                f"a canvas is {shown_value(canvas)}; expected height and width, positive multiples of {divisor} up to"
                f" {LARGEST_SIDE}"
            )
    return [cast(Canvas, tuple(map(int, canvas))) for canvas in given]


def _is_side(value: object, divisor: int) -> bool:
    return isinstance(value, Integral) and 0 < int(value) <= LARGEST_SIDE and int(value) % divisor == 0
