"""Arrays -> image files, written atomically."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from condinst_deploy.support.atomic_write import atomic_path

LARGEST_JPEG = 65_500
"""Longest side of a JPEG, in pixels, that Pillow writes."""


def write_overlay(folder: Path, stem: str, overlay: Image.Image) -> Path:
    """Write a drawn image as stem.jpg, or as stem.png where it is too large for a JPEG; returns the file.

    Raises:
        OutputError: it cannot be written.
    """
    if max(overlay.size) > LARGEST_JPEG:
        path = folder / f"{stem}.png"
        with atomic_path(path) as temporary:
            overlay.save(temporary, format="PNG")
        return path
    path = folder / f"{stem}.jpg"
    write_jpeg(path, overlay)
    return path


def write_jpeg(path: Path, image: Image.Image, quality: int = 90) -> None:
    """Write a JPEG.

    It is encoded in memory: when Pillow encodes a JPEG into a file, a disk that takes only a part of it is no error.

    Raises:
        OutputError: it cannot be written.
    """
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=quality)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def write_png(path: Path, pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write a PNG.

    Args:
        path: file to write.
        pixels: `(H, W)` uint16 or uint8, or `(H, W, 3)` RGB or `(H, W, 4)` RGBA uint8.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
