"""Sizes of images from their headers; no pixel is decoded."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from condinst_deploy.imaging.decode import TURNS, orientation_of

LONGEST_SIDE, MOST_PIXELS = 65_535, 1 << 28
"""Limits of an annotated or a generated image; pycocotools counts in 32 bits, and a mask takes a byte a pixel."""

THREADS = 8
"""Files that are read at the same time: reading waits for the disk."""

SIDES_SWAPPED = frozenset({Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE,
                           Image.Transpose.ROTATE_90})  # fmt: skip


@dataclass(frozen=True)
class Header:
    """Header of an image file, or the reason why it cannot be read.

    Attributes:
        stored: height and width of the stored pixels.
        turned: EXIF swaps the sides when the image is shown.
        problem: why the header cannot be read; "" if it can.
    """

    stored: tuple[int, int] = (0, 0)
    turned: bool = False
    problem: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright image, as inference and training see it."""
        return (self.stored[1], self.stored[0]) if self.turned else self.stored


def headers_of(paths: Sequence[Path]) -> Iterator[Header]:
    """Read the headers of files in threads, in the files' order."""
    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
        warnings.simplefilter("ignore")  # remarks on large images and odd EXIF; nothing is decoded here
        yield from pool.map(header_of, paths)


def header_of(path: Path) -> Header:
    """Read one header."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            # a TIFF's size is already the upright one; a PNG without EXIF in front of its pixels would be decoded
            ready = image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info)
            turn = None if ready else TURNS.get(orientation_of(image))
    except Exception as e:  # Pillow's readers raise errors of any kind on damaged files
        return Header(problem=str(e).splitlines()[0] if str(e) else type(e).__name__)
    return Header((height, width), turn in SIDES_SWAPPED)
