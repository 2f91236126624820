"""Arrays -> image files, written atomically."""

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
    kind, suffix = ("JPEG", ".jpg") if max(overlay.size) <= LARGEST_JPEG else ("PNG", ".png")
    path = folder / f"{stem}{suffix}"
    with atomic_path(path) as temporary:
        overlay.save(temporary, format=kind, quality=90)
    return path


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
