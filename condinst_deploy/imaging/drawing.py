"""Instances drawn on an image: masks, boxes and captions; overlays, sheets and reports all draw here."""

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.encode import LARGEST_JPEG, write_jpeg
from condinst_deploy.imaging.labels import Label, draw_labels
from condinst_deploy.imaging.palette import DARK, LIGHT, Colour, colour_of, lightened
from condinst_deploy.masks import BoolArray, Masks, Window
from condinst_deploy.shown_text import counted
from condinst_deploy.support.validation import Limits, checked_number

OPACITY = 0.45
"""Opacity of a mask's colour over the image."""

SMALLEST_TEXT, LARGEST_TEXT = 11, 48
"""Height of captions, pixels."""

SHEET_SIDE = 288
"""Longest side of an image in a contact sheet, pixels."""

OVERLAY_SIDE = 640
"""Longest side that the image of an overlay file has at least, pixels: on smaller images the labels, whose texts have a
smallest height, would hide what they name."""

LARGEST_MINIMUM = LARGEST_JPEG // 2
"""Largest `min_longest_side`, pixels: an enlarged image, which is less than twice as large, still fits into a JPEG."""


class DrawingLimits(NamedTuple):
    """Limits of the memory that masks take while they are drawn; they do not change the result."""

    strip: int = 1 << 22  # pixels of a mask that are drawn at a time: the arithmetic needs many times a mask's memory
    held: int = 1 << 26  # most pixels of an image's masks, at the drawn size, that are all held


LIMITS = DrawingLimits()


class Overlay(NamedTuple):
    """An image with instances drawn on it."""

    image: Image.Image
    drawn: int  # instances
    unlabelled: int  # of them, those without a label, because there was no room for it


def unlabelled_text(unlabelled: int, drawn: int) -> str:
    """What a command says of drawn instances whose labels were left out (`Overlay`), of all its images together."""
    return (
        f"{unlabelled:,} of {counted(drawn, 'drawn detection')} without a label, for which there was no room: labels"
        " cover at most a fifth of an image"
    )


def enlarged_side(longest: int, smallest: int) -> int | None:
    """Return the longest side, in pixels, of an image that is enlarged to have at least the smallest one.

    The factor is whole, so that all pixels of the image stay squares of one size: the result is smaller than twice the
    smallest side. None for an image that is large enough.

    Args:
        longest: longest side of the image, pixels.
        smallest: that the longest side is to have at least.

    Raises:
        ConfigError: the smallest side is not 1 to 32,750.
    """
    checked_number("min_longest_side", smallest, Limits(1, LARGEST_MINIMUM))
    return None if longest >= smallest else ceil(smallest / longest) * longest


def overlay(
    image: npt.NDArray[np.uint8],
    boxes: npt.NDArray[np.float32],
    captions: Sequence[str],
    masks: Masks,
    labels: Sequence[int] | None = None,
    longest_side: int | None = None,
) -> Overlay:
    """Draw instances on a copy of the image, the first one (the best) on top.

    The image and the masks are scaled first, then outlines, boxes and captions are drawn, so that lines and texts are
    sharp and legible at every size. Every mask has a dark line around it and a light one inside it: one of them
    shows on any ground.

    Args:
        image: `(H, W, 3)` uint8 RGB, of the masks' size.
        boxes: `(n, 4)` xyxy, pixels of the image.
        captions: n texts.
        masks: n masks.
        labels: n classes; a class has one colour. None: 0, 1, ...
        longest_side: pixels that the longest side of the result has; None: the image's own size.

    Raises:
        ConfigError: the longest side is not 1 to 65,500, or there are not n of each.
    """
    labels = range(len(masks)) if labels is None else labels
    lengths = len(boxes), len(captions), len(masks), len(labels)
    if len(set(lengths)) > 1:
        raise ConfigError(f"{lengths} boxes, captions, masks and labels; expected as many of each")
    pixels, scale = _scaled_image(image, longest_side)
    text_size = min(max(min(pixels.shape[:2]) // 40, SMALLEST_TEXT), LARGEST_TEXT)
    thickness = max(1, text_size // 12)
    colours = [colour_of(label) for label in labels]
    draw_masks(pixels, masks, colours, scale, thickness)
    drawn = Image.fromarray(pixels)
    del pixels  # of a large image it is half a gigabyte
    boxes = boxes * np.float32(scale)
    _draw_boxes(drawn, boxes, colours, thickness)
    texts = [
        Label(caption, (x1, y1, x2, y2), colour)
        for caption, (x1, y1, x2, y2), colour in zip(captions, boxes.tolist(), colours, strict=True)
    ]
    places = draw_labels(drawn, texts, text_size)
    return Overlay(drawn, len(places), places.count(None))


def contact_sheet(images: Sequence[Image.Image], columns: int = 4, side: int = SHEET_SIDE) -> Image.Image:
    """Images in rows, each in a square of `side` pixels; larger ones are made smaller.

    Overlays that are made with `longest_side=side` keep the captions' size.
    """
    rows = max(1, -(-len(images) // columns))
    sheet = Image.new("RGB", (columns * side, rows * side), LIGHT)
    for i, image in enumerate(images):
        fitting = image.copy()
        fitting.thumbnail((side, side), Image.Resampling.LANCZOS)
        sheet.paste(fitting, (i % columns * side, i // columns * side))
    return sheet


def write_sheet(images: Sequence[Image.Image], path: Path) -> None:
    """Write a contact sheet as a JPEG file.

    Raises:
        OutputError: the file cannot be written.
    """
    write_jpeg(path, contact_sheet(images))


def draw_masks(
    pixels: npt.NDArray[np.uint8],
    masks: Masks,
    colours: Sequence[Colour],
    scale: float,
    thickness: int,
    limits: DrawingLimits = LIMITS,
) -> None:
    """Tint the masks, then draw their outlines.

    Masks that together are large are made twice and held one at a time: each can be as large as the image.

    Args:
        pixels: `(h, w, 3)` uint8 RGB of the drawn size; changed in place.
        masks: n masks of the original size.
        colours: n colours.
        scale: drawn size divided by the original size.
        thickness: of the outlines, pixels.
        limits: of the memory that it takes.
    """
    size = scale**2 * sum(window.height * window.width for window in masks.windows)

    @lru_cache(maxsize=None if size <= limits.held else 0)
    def drawn_mask(i: int) -> tuple[tuple[int, int], BoolArray]:
        # a border of `thickness` pixels around each mask leaves room for the line outside of it
        return _scaled_mask(masks.crop(i), masks.windows[i], scale, thickness)

    for draw in (partial(_tint, strip=limits.strip), partial(_outline, thickness=thickness, strip=limits.strip)):
        for i in reversed(range(len(masks))):
            origin, mask = drawn_mask(i)
            draw(pixels, origin, mask, colours[i])


def _scaled_image(image: npt.NDArray[np.uint8], longest_side: int | None) -> tuple[npt.NDArray[np.uint8], float]:
    """Return a copy of the drawn size, and the factor; pixels of an image that is enlarged stay squares."""
    if longest_side is None:
        return image.copy(), 1.0
    scale = checked_number("longest_side", longest_side, Limits(1, LARGEST_JPEG)) / max(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in (image.shape[1], image.shape[0]))
    method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return np.array(Image.fromarray(image).resize((size[0], size[1]), method)), scale


def _scaled_mask(crop: BoolArray, window: Window, scale: float, border: int) -> tuple[tuple[int, int], BoolArray]:
    """Return where the drawn mask begins, `(y, x)`, and the mask with an empty border of that many pixels.

    The first pixel may lie outside the image, as far as the border.
    """
    if crop.size == 0:
        return (0, 0), np.zeros((0, 0), dtype=np.bool_)
    top, left = int(window.y * scale), int(window.x * scale)
    if scale != 1:
        height = max(1, ceil((window.y + window.height) * scale) - top)
        width = max(1, ceil((window.x + window.width) * scale) - left)
        crop = _resampled(crop, (left / scale - window.x, top / scale - window.y), (width, height), scale)
    return (top - border, left - border), np.pad(crop, border)


def _resampled(crop: BoolArray, start: tuple[float, float], size: tuple[int, int], scale: float) -> BoolArray:
    """Sample a crop at the drawn pixels' areas; a drawn pixel belongs to the mask from half of its area on."""
    pad = 2 + int(1 / scale)  # the drawn pixels at the border reach beyond the crop
    padded = Image.fromarray(np.pad(crop, pad).astype(np.uint8) * 255)
    x, y = start[0] + pad, start[1] + pad
    area = (x, y, min(x + size[0] / scale, padded.width), min(y + size[1] / scale, padded.height))
    covered = np.asarray(padded.resize(size, Image.Resampling.BOX, area))
    # a line thinner than a drawn pixel would vanish
    return covered >= min(128, int(covered.max()) or 1)


def _tint(
    pixels: npt.NDArray[np.uint8], origin: tuple[int, int], mask: BoolArray, colour: Colour, *, strip: int
) -> None:
    """Mix the mask's pixels with the colour."""
    for first, last in _strips(mask, strip):
        part, inside = _common(pixels, (origin[0] + first, origin[1]), mask[first:last])
        mixed = part[inside] * np.float32(1 - OPACITY) + np.array(colour, dtype=np.float32) * np.float32(OPACITY)
        part[inside] = mixed.astype(np.uint8)


def _outline(
    pixels: npt.NDArray[np.uint8],
    origin: tuple[int, int],
    mask: BoolArray,
    colour: Colour,
    *,
    thickness: int,
    strip: int,
) -> None:
    """Draw a dark line around the mask and a light one inside it."""
    for first, last in _strips(mask, strip):
        above = min(first, thickness)  # rows that the lines of this strip depend on
        rows = mask[first - above : last + thickness]
        drawn = slice(above, above + last - first)
        inner, outer = rows & ~_shrunk(rows, thickness), _grown(rows, thickness) & ~rows
        _paint(pixels, (origin[0] + first, origin[1]), outer[drawn], DARK)
        _paint(pixels, (origin[0] + first, origin[1]), inner[drawn], lightened(colour))


def _strips(mask: BoolArray, strip: int) -> Iterator[tuple[int, int]]:
    """Rows that are drawn together, as `(first, last)`; the last one is outside."""
    step = max(1, strip // max(1, mask.shape[1]))
    for first in range(0, len(mask), step):
        yield first, min(first + step, len(mask))


def _paint(pixels: npt.NDArray[np.uint8], origin: tuple[int, int], where: BoolArray, colour: Colour) -> None:
    part, inside = _common(pixels, origin, where)
    part[inside] = colour


def _common(
    pixels: npt.NDArray[np.uint8], origin: tuple[int, int], mask: BoolArray
) -> tuple[npt.NDArray[np.uint8], BoolArray]:
    """Return the views of the image and of the mask that lie on each other."""
    top, left = max(0, origin[0]), max(0, origin[1])
    inside = mask[top - origin[0] :, left - origin[1] :]
    part = pixels[top : top + inside.shape[0], left : left + inside.shape[1]]
    return part, inside[: part.shape[0], : part.shape[1]]


def _grown(mask: BoolArray, by: int) -> BoolArray:
    """Return the mask and all pixels that touch it, `by` times."""
    for _ in range(by):
        grown = mask.copy()
        grown[1:] |= mask[:-1]
        grown[:-1] |= mask[1:]
        grown[:, 1:] |= mask[:, :-1]
        grown[:, :-1] |= mask[:, 1:]
        mask = grown
    return mask


def _shrunk(mask: BoolArray, by: int) -> BoolArray:
    """Return the mask without its outer pixels, `by` times."""
    return ~_grown(~mask, by)


def _draw_boxes(image: Image.Image, boxes: npt.NDArray[np.float32], colours: Sequence[Colour], thickness: int) -> None:
    draw = ImageDraw.Draw(image)
    for (x1, y1, x2, y2), colour in reversed(list(zip(boxes.tolist(), colours, strict=True))):
        x2, y2 = max(x1, x2), max(y1, y2)
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=DARK, width=thickness + 2)
        draw.rectangle((x1, y1, x2, y2), outline=colour, width=thickness)
