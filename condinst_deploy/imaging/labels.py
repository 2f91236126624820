"""Captions beside boxes: short enough for the image, inside it, and not over each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from condinst_deploy.imaging.fonts import pieces
from condinst_deploy.imaging.palette import DARK, Colour, text_colour

LONGEST_CAPTION = 80
"""Most characters of a caption; the middle of a longer one is left out."""

ELLIPSIS = "\u2026"

LEAST_KEPT = 4
"""Fewest characters of a shortened caption that still say something."""

MOST_COVERED = 1 / 5
"""Share of the image that labels may cover if there are several: more of them would hide what they name."""

MARGIN = 2  # pixels between a text and the border of its label


class Rectangle(NamedTuple):
    """Whole pixels; the last ones are outside."""

    x: int
    y: int
    width: int
    height: int

    def overlaps(self, other: "Rectangle") -> bool:
        """Return True if the two have a pixel in common."""
        return (
            self.x < other.x + other.width
            and other.x < self.x + self.width
            and self.y < other.y + other.height
            and other.y < self.y + self.height
        )


@dataclass(frozen=True)
class Label:
    """A caption and what it belongs to."""

    text: str
    box: tuple[float, float, float, float]  # xyxy, pixels of the drawn image
    colour: Colour


def draw_labels(image: Image.Image, labels: Sequence[Label], text_size: int) -> list[Rectangle | None]:
    """Write captions on an image, the first ones at the places that they like best.

    A label lies above its box, inside it or below it, else at the nearest free place, with a line to the box. A label
    for which nothing is free, or with which several labels would cover more than a fifth of the image, is left out.

    Returns:
        Where each label lies; None if it is left out.
    """
    occupied: list[Rectangle] = []
    draw = ImageDraw.Draw(image)
    height = text_size + text_size // 4 + 2 * MARGIN
    # a long name covers a third of the image at most, unless that is too little for any name
    widest = min(image.width - 2 * MARGIN, max(image.width // 3, 12 * text_size))
    free = MOST_COVERED * image.width * image.height  # pixels
    places: list[Rectangle | None] = []
    texts: list[str] = []
    for label in labels:
        text = fitted(label.text, widest, text_size)
        size = (round(text_width(text, text_size)) + 2 * MARGIN, height)
        fits = text and (not occupied or size[0] * size[1] <= free)
        place = _place(label.box, size, occupied, image.size) if fits else None
        if place is not None:
            occupied.append(place)
            free -= place.width * place.height
        places.append(place)
        texts.append(text)
    for label, place in zip(labels, places, strict=True):
        if place is not None:
            _draw_leader(draw, label, place)
    for label, place, text in zip(labels, places, texts, strict=True):
        if place is not None:
            _draw_label(draw, label.colour, place, text, text_size)
    return places


def text_width(text: str, text_size: int) -> float:
    """Return the pixels that a text takes."""
    return sum(font.getlength(run) for run, font in pieces(text, text_size))


def fitted(text: str, width: int, text_size: int) -> str:
    """Return the text, or as much of its beginning and end as fits into `width` pixels around an ellipsis.

    The end is kept because it is the score. Empty where fewer than `LEAST_KEPT` characters fit.
    """
    if len(text) <= LONGEST_CAPTION and text_width(text, text_size) <= width:
        return text
    low, high = 0, min(len(text) - 1, LONGEST_CAPTION)
    while low < high:
        middle = (low + high + 1) // 2
        if text_width(_shortened(text, middle), text_size) <= width:
            low = middle
        else:
            high = middle - 1
    return _shortened(text, low) if low >= LEAST_KEPT else ""


def _shortened(text: str, kept: int) -> str:
    """The text with `kept` characters and an ellipsis; up to five of them are its end, which is the score."""
    end = min(5, kept // 2)
    return text[: kept - end] + ELLIPSIS + text[len(text) - end :]


def _place(
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    occupied: Sequence[Rectangle],
    image_size: tuple[int, int],
) -> Rectangle | None:
    width, height = size
    columns, rows = image_size
    if width > columns or height > rows:
        return None
    x1, y1, x2, y2 = (round(value) for value in box)
    left, right = x1, x2 - width
    above, below = y1 - height, y2 + 1
    for x, y in ((left, above), (left, y1), (right, above), (left, below), (right, below), (right, y1)):
        place = Rectangle(min(max(x, 0), columns - width), min(max(y, 0), rows - height), width, height)
        moved = abs(place.x - x) + abs(place.y - y)
        if moved <= width and not any(place.overlaps(other) for other in occupied):
            return place
    return _nearest_free((left, above), size, occupied, image_size)


def _nearest_free(
    wanted: tuple[int, int], size: tuple[int, int], occupied: Sequence[Rectangle], image_size: tuple[int, int]
) -> Rectangle | None:
    """Return the free rectangle of `(width, height)` whose corner is nearest to the wanted one."""
    width, height = size
    step_y, step_x = max(1, height // 4), max(1, height // 2)
    columns, rows = image_size
    free = np.ones(
        (len(range(0, rows + 1 - height, step_y)), len(range(0, columns + 1 - width, step_x))), dtype=np.bool_
    )
    for other in occupied:
        # corners from which a rectangle of this size reaches into the other one
        y = slice(max(0, (other.y - height) // step_y + 1), -(-(other.y + other.height) // step_y))
        x = slice(max(0, (other.x - width) // step_x + 1), -(-(other.x + other.width) // step_x))
        free[y, x] = False
    found_y, found_x = np.nonzero(free)
    if len(found_y) == 0:
        return None
    x_pixels, y_pixels = found_x * step_x, found_y * step_y
    best = int(np.argmin((x_pixels - wanted[0]) ** 2 + (y_pixels - wanted[1]) ** 2))
    return Rectangle(int(x_pixels[best]), int(y_pixels[best]), width, height)


def _draw_leader(draw: ImageDraw.ImageDraw, label: Label, place: Rectangle) -> None:
    """A line from a label that does not touch its box to the nearest point of the box."""
    x1, y1, x2, y2 = label.box
    middle = place.x + place.width / 2, place.y + place.height / 2
    target = min(max(middle[0], x1), x2), min(max(middle[1], y1), y2)
    away_x, away_y = abs(target[0] - middle[0]) - place.width / 2, abs(target[1] - middle[1]) - place.height / 2
    if max(away_x, away_y) > MARGIN:
        draw.line((*middle, *target), fill=DARK, width=3)
        draw.line((*middle, *target), fill=label.colour, width=1)


def _draw_label(draw: ImageDraw.ImageDraw, colour: Colour, place: Rectangle, text: str, text_size: int) -> None:
    x, y, width, height = place
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    at, baseline = float(x + MARGIN), y + MARGIN + text_size
    for run, font in pieces(text, text_size):
        draw.text((at, baseline), run, fill=text_colour(colour), font=font, anchor="ls")
        at += font.getlength(run)
