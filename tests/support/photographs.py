"""The golden photographs at other sizes, as a camera would write them."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.models import IMAGES


def photograph(path: Path, name: str, size: tuple[int, int]) -> Path:
    """Write one of the golden photographs, cut and scaled to `size` (width, height)."""
    with Image.open(IMAGES / f"{name}.png") as stored:
        whole = stored.convert("RGB")
    share = min(whole.width / size[0], whole.height / size[1])
    cut = whole.resize(size, Image.Resampling.BICUBIC, box=(0, 0, size[0] * share, size[1] * share))
    noise = np.random.default_rng(0).normal(0, 3, (size[1], size[0], 3))
    pixels = (np.asarray(cut) + noise).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path
