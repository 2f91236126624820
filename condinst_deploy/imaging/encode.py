"""Arrays -> image files, whole or not at all."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from condinst_deploy.support.atomic_write import atomic_path


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
