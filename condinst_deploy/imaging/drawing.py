"""Overlay images: masks, boxes and labels drawn on a photograph."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from condinst_deploy.masks import Masks

PALETTE = (
    (230, 57, 70), (42, 157, 143), (255, 183, 3), (69, 123, 214), (155, 93, 229),
    (0, 187, 249), (251, 133, 0), (112, 193, 60), (241, 91, 181), (140, 110, 84),
)  # fmt: skip
"""RGB colours, used in turn."""

OPACITY = 0.5


def overlay(
    image: npt.NDArray[np.uint8],
    boxes: npt.NDArray[np.float32],
    captions: Sequence[str],
    masks: Masks,
    colours: Sequence[int] | None = None,
) -> Image.Image:
    """Draw instances on a copy of the image, the first one (the best) on top.

    Args:
        image: `(H, W, 3)` uint8 RGB, of the masks' size.
        boxes: `(n, 4)` xyxy pixels.
        captions: n texts.
        masks: n masks.
        colours: n places in `PALETTE`, taken in turn; None: 0, 1, ...
    """
    pixels = image.copy()
    chosen = [PALETTE[c % len(PALETTE)] for c in (range(len(masks)) if colours is None else colours)]
    places = masks.windows
    for i in reversed(range(len(masks))):
        (y, x, height, width), crop = places[i], masks.crop(i)
        window = pixels[y : y + height, x : x + width]
        colour = np.array(chosen[i], dtype=np.float32)
        window[crop] = (window[crop] * (1 - OPACITY) + colour * OPACITY).astype(np.uint8)
    drawn = Image.fromarray(pixels)
    draw = ImageDraw.Draw(drawn)
    text_size = max(10, min(image.shape[:2]) // 40)
    font = ImageFont.load_default(text_size)
    for i in reversed(range(len(masks))):
        x1, y1, x2, y2 = boxes[i].tolist()
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=chosen[i], width=max(1, text_size // 8))
        corner = (x1, max(0.0, y1 - text_size - 2))
        draw.rectangle(draw.textbbox(corner, captions[i], font=font), fill=chosen[i])
        draw.text(corner, captions[i], fill=(255, 255, 255), font=font)
    return drawn


def contact_sheet(images: Sequence[Image.Image], columns: int = 4, side: int = 288) -> Image.Image:
    """Images in rows, each scaled to fit a square of `side` pixels."""
    rows = max(1, -(-len(images) // columns))
    sheet = Image.new("RGB", (columns * side, rows * side), (255, 255, 255))
    for i, image in enumerate(images):
        scale = min(side / image.width, side / image.height)
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        sheet.paste(image.resize(size, Image.Resampling.BICUBIC), (i % columns * side, i // columns * side))
    return sheet
