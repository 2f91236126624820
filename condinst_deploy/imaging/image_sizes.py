"""Sizes of images from their headers, and whether files are cut off; no pixel is decoded."""

import os
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from condinst_deploy.imaging.decode import check_readable
from condinst_deploy.imaging.image_ends import ends_whole
from condinst_deploy.imaging.orientation import ORIENTATION, orientation_of
from condinst_deploy.shown_text import first_line

LONGEST_SIDE, MOST_PIXELS = 65_535, 1 << 28
"""Limits of an annotated or a generated image; pycocotools counts in 32 bits, and a mask takes a byte a pixel."""

THREADS = 8
"""Files that are read at the same time: reading waits for the disk."""

SIDES_SWAPPED = frozenset({5, 6, 7, 8})
"""EXIF orientations that turn an image on its side."""


@dataclass(frozen=True)
class Header:
    """Header of an image file, or the reason why it cannot be read.

    Attributes:
        stored: height and width of the stored pixels.
        turned: EXIF swaps the sides when the image is shown.
        problem: why the image cannot be read; "" if the header can be, and its kind of pixels.
        file: device and number of the file, the same under all its names; None: it cannot be opened.
        bytes: length of the file.
        ends_whole: False: the file lacks the end of its format, so that it may be cut off.
    """

    stored: tuple[int, int] = (0, 0)
    turned: bool = False
    problem: str = ""
    file: tuple[int, int] | None = None
    bytes: int = 0
    ends_whole: bool = True

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
    file, length = None, 0
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            file, length = (found.st_dev, found.st_ino), found.st_size
            with Image.open(stream) as image:
                check_readable(image)
                size = _size_of(image)
                return Header(*size, file=file, bytes=length, ends_whole=ends_whole(stream, image.format))
    except UnidentifiedImageError:
        return Header(problem="not an image in a known format", file=file, bytes=length)
    except Exception as e:  # Pillow's readers raise errors of any kind on damaged files
        return Header(problem=first_line(e), file=file, bytes=length)


def _size_of(image: Image.Image) -> tuple[tuple[int, int], bool]:
    """Height and width as stored, and whether EXIF swaps them."""
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # its size is already the upright one
        turned = image.tag_v2.get(ORIENTATION) in SIDES_SWAPPED
        return ((width, height) if turned else (height, width)), turned
    # a PNG without EXIF in front of its pixels would be decoded
    ready = image.format == "PNG" and "exif" not in image.info
    return (height, width), not ready and orientation_of(image) in SIDES_SWAPPED
