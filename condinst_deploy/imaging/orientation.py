"""Orientation of an image, as a camera writes it into EXIF."""

from typing import Any

from PIL import Image

ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Orientation -> the transposition that makes the image upright."""


def orientation_of(image: Image.Image) -> Any:
    """EXIF orientation of an opened image, a key of `TURNS` or anything else; None if it cannot be read."""
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # Pillow raises errors of many kinds on malformed EXIF; the pixels can still be read
        return None
