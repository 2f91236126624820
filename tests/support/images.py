"""Pixels that the tests of images write in every form, and what they become."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.support.models import noise_image

UInt8 = npt.NDArray[np.uint8]


Levels = npt.NDArray[np.uint16]


RGB = noise_image(1, 24, 36)


GREY = RGB[..., 1]


ALPHA = np.tile(np.linspace(0, 255, 36).astype(np.uint8), (24, 1))


SIXTEEN_BITS: Levels = np.array(
    [[0, 1, 128, 129, 256, 257], [32767, 32768, 65406, 65407, 65534, 65535]], dtype=np.uint16
)


def png(seed: int, height: int = 96, width: int = 128) -> bytes:
    """Content of a PNG file of noise."""
    content = io.BytesIO()
    Image.fromarray(noise_image(seed, height, width)).save(content, "PNG")
    return content.getvalue()


def grey_rgb(grey: npt.NDArray[Any]) -> UInt8:
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def on_white(rgb: UInt8, alpha: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    share = alpha[..., None] / 255.0
    blended: npt.NDArray[np.float64] = rgb * share + 255 * (1 - share)
    return blended


def eight_bits(levels: Levels) -> UInt8:
    return np.rint(levels / 257).astype(np.uint8)


def assert_rgb(result: Any, shape: tuple[int, int]) -> None:
    assert isinstance(result, np.ndarray)
    assert type(result) is np.ndarray
    assert result.dtype == np.uint8
    assert result.shape == (*shape, 3)
    assert result.flags.c_contiguous
