"""Images of any kind -> upright RGB `uint8 (H, W, 3)`; training, inference and drawing all decode here."""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from condinst_deploy.errors import ConfigError, ImageError
from condinst_deploy.imaging.encoded_image import EncodedImage
from condinst_deploy.imaging.image_files import ImageFile
from condinst_deploy.imaging.image_urls import ImageUrl
from condinst_deploy.imaging.jpeg_markers import check_scans, has_end
from condinst_deploy.imaging.orientation import TURNS, orientation_of
from condinst_deploy.shown_text import first_line
from condinst_deploy.support.launch import remarks_on
from condinst_deploy.support.remote_files import is_url, local_path, public_url

RGBArray = npt.NDArray[np.uint8]

FOREIGN_DECODERS = frozenset({"EPS"})
"""Formats, whatever the name of the file, that Pillow gives to another program: Ghostscript may run it without end."""

STRIP = 1 << 22
"""Pixels that are converted to RGB at a time: transparency and 16 bits take several times an image's memory."""

_opening = Lock()
"""Held while a warning is silenced, because Python's warning filters belong to the process and not to a thread."""


def _new_lock() -> None:
    """A thread that held the lock when the process was forked does not exist in the child."""
    global _opening
    _opening = Lock()


os.register_at_fork(after_in_child=_new_lock)


@dataclass(frozen=True)
class Jpeg:
    """The content of an upright RGB JPEG, and its size from the header."""

    content: bytes
    height: int
    width: int

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width


def rgb_from(source: Any) -> RGBArray:
    """Decode or convert one image.

    Args:
        source: a path or a URL; an `ImageUrl`; an `EncodedImage`; an array `(H, W)`, `(H, W, 1)`, `(H, W, 3)` RGB or
            `(H, W, 4)` RGBA, uint8, uint16 or bool; a PIL image; or a tensor `(3, H, W)`, `(1, H, W)` or `(H, W)`,
            uint8.

    Returns:
        `(H, W, 3)` uint8 RGB. EXIF orientation is applied; transparency is shown on white; 16 bits are
        scaled to 8.

    Raises:
        ImageError: it cannot be read or has a form that is not supported.
    """
    if isinstance(source, str | Path | ImageUrl | EncodedImage):
        with _reading(source) as stream:
            return _rgb_from_stream(stream)
    if isinstance(source, Image.Image):
        try:
            return rgb_from_pil(source)
        except (OSError, SyntaxError, ValueError) as e:
            raise ImageError(f"an image cannot be decoded ({e}); it may be truncated or damaged") from e
    if isinstance(source, np.ndarray):
        return _rgb_from_array(source)
    if hasattr(source, "detach") and hasattr(source, "permute"):  # a tensor, without importing torch for it
        try:
            array = source.detach().cpu().numpy()
        except (TypeError, RuntimeError) as e:  # of sparse, nested, meta and quantised tensors, of floats of 8 bits
            raise ImageError(
                f"a tensor is {source.dtype}, {source.layout}, on {source.device}; expected uint8 in 0..255, dense and"
                f" in memory ({first_line(e)})"
            ) from e
        if array.ndim == 3:
            if array.shape[0] not in (1, 3, 4):
                raise ImageError(f"a tensor has shape {array.shape}; expected (3, H, W), channels first")
            array = array.transpose(1, 2, 0)
        return _rgb_from_array(array)
    raise ImageError(f"an image is a {type(source).__name__}; expected {_expected_for(source)}")


def _expected_for(source: Any) -> str:
    """Forms of an image, first the one that is meant by a value that is none of them."""
    forms = "a path, an array, a PIL image or a tensor"
    if isinstance(source, bytes | bytearray | memoryview):
        return f"EncodedImage(name, content) for the content of a file, or {forms}"
    if hasattr(source, "read"):
        return f"EncodedImage(name, file.read()) for an open file, or {forms}"
    if isinstance(source, Iterable):
        return f"{forms}; several are a flat list or a tuple of these, and Predictor.stream takes other iterables"
    return forms


def rgb_from_bytes(content: bytes, max_pixels: int | None = None) -> RGBArray:
    """Decode an encoded image (JPEG, PNG, ...) as `rgb_from` decodes a file.

    Args:
        content: the encoded image.
        max_pixels: refuse an image whose header declares more; None: only Pillow's own limit.

    Raises:
        ImageError: it cannot be decoded, or it is too large.
    """
    stream = BytesIO(content)
    with _named("the image"), _opened(stream) as image:
        if max_pixels is not None and image.width * image.height > max_pixels:
            raise ImageError(f"it has {image.width}x{image.height} pixels; at most {max_pixels} are accepted")
        return _rgb_from_opened(image, stream)


def jpeg_from(source: Any) -> Jpeg | None:
    """Return an upright RGB JPEG of the disk or of memory, which a JPEG decoder handles alone, else None.

    A JPEG without its end is None, too: decoders of a GPU may fill up what lacks.

    Raises:
        ImageError: the file cannot be read.
    """
    if not isinstance(source, str | Path | EncodedImage) or (isinstance(source, str) and is_url(source)):
        return None
    with _reading(source) as stream, _opened(stream) as image:
        data = _rgb_jpeg(image, stream)
        if data is None or not has_end(data) or orientation_of(image) in TURNS:
            return None
        return Jpeg(data, image.height, image.width)


def file_content(path: str | Path, most: int) -> bytes:
    """Return the bytes of an image file on the disk; they are not decoded.

    Raises:
        ImageError: the file cannot be read, it has more than `most` bytes, or it is a pipe, a socket or a device.
    """
    with _reading(Path(path)) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise ImageError(f"the file has {size} bytes; expected at most {most}")
        return stream.read()


def _rgb_from_stream(stream: BinaryIO) -> RGBArray:
    with _opened(stream) as image:
        return _rgb_from_opened(image, stream)


def _rgb_from_opened(image: Image.Image, stream: BinaryIO) -> RGBArray:
    data = _rgb_jpeg(image, stream)
    if data is not None:
        # simplejpeg uses libjpeg-turbo as Pillow does and makes fewer copies; tests/imaging/test_jpeg.py compares
        # the pixels of both
        with suppress(ValueError):  # simplejpeg raises on warnings; Pillow decides which files are damaged
            pixels: RGBArray = simplejpeg.decode_jpeg(data, colorspace="RGB")
            turn = TURNS.get(orientation_of(image))
            return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))
    return rgb_from_pil(image)


@contextmanager
def _reading(source: str | ImageFile | EncodedImage) -> Iterator[BinaryIO]:
    """Open a file. Every error in the block becomes an `ImageError` that names the file."""
    if isinstance(source, str) and is_url(source):
        source = ImageUrl(source)
    if isinstance(source, ImageUrl):
        source = EncodedImage(str(source), source.content())
    if isinstance(source, EncodedImage):
        with _named(source.name):
            yield BytesIO(source.content)
        return
    try:
        path = local_path(source) if isinstance(source, str) else Path(source)
    except ConfigError as e:  # it is empty
        raise ImageError(str(e)) from e
    with _named(str(source)):
        if not path.is_file():
            if path.is_dir():
                raise ImageError("it is a folder; expected an image file")
            if path.exists():
                raise ImageError("it is a pipe, a socket or a device, which is not read; expected an image file")
            raise FileNotFoundError
        with path.open("rb") as stream:
            yield stream


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Every error in the block becomes an `ImageError` that names the image."""
    try:
        with remarks_on(name):
            yield
    except ImageError as e:
        raise ImageError(f"{name}: {e}") from e
    except FileNotFoundError as e:
        raise ImageError(f"no image at {name}") from e
    except UnidentifiedImageError as e:
        raise ImageError(f"{name} is not an image in a known format") from e
    except Image.DecompressionBombError as e:
        raise ImageError(f"{name} is too large to be decoded safely ({e})") from e
    except MemoryError as e:  # the image need not be damaged
        raise ImageError(f"{name} cannot be decoded: the memory is not enough") from e
    except Exception as e:  # Pillow's decoders raise errors of any kind on damaged files
        if isinstance(e, OSError) and e.errno is not None:  # of the system; Pillow's own have no number
            raise ImageError(f"{name} cannot be read ({e.strerror})") from e
        raise ImageError(f"{name} cannot be decoded ({e}); it may be truncated or damaged") from e


def _opened(stream: BinaryIO) -> Image.Image:
    """Open a file with Pillow, which reads the header only."""
    with _opening, warnings.catch_warnings():
        # the user named the file, so a large photograph is no attack; Pillow's hard limit stays
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(stream)
    check_readable(image)
    return image


def check_readable(image: Image.Image) -> None:
    """Check by an opened image's header that its pixels are of a kind that is read.

    Raises:
        ImageError: they are not.
    """
    if image.format in FOREIGN_DECODERS:
        raise ImageError(f"it is {image.format}, which Pillow gives to another program to run; convert it to PNG")
    if image.mode == "F":
        raise ImageError("it has floating-point pixels; convert it to 8 bits first")


def _rgb_jpeg(image: Image.Image, stream: BinaryIO) -> bytes | None:
    """Content of an RGB JPEG, else None.

    Raises:
        ImageError: it is a JPEG of any mode with too many scans.
    """
    if image.format not in ("JPEG", "MPO"):
        return None
    stream.seek(0)
    data = stream.read()
    check_scans(data)
    return data if image.mode == "RGB" else None


def rgb_from_pil(image: Image.Image, strip: int = STRIP) -> RGBArray:
    """Convert an image of Pillow to `(H, W, 3)` uint8 RGB, upright and on white, `strip` pixels at a time.

    Raises:
        ImageError: it is empty, or has floating-point pixels.
        OSError, SyntaxError, ValueError: of Pillow, for a damaged file.
    """
    if 0 in image.size:
        raise ImageError(f"an image is empty: its size is {image.size}")
    image.load()  # Pillow's TIFF reader turns images upright here and then removes the orientation
    # ImageOps.exif_transpose would write the whole EXIF again, and it fails if any entry is malformed
    turn = TURNS.get(orientation_of(image))
    image = image if turn is None else image.transpose(turn)
    rgb = np.empty((image.height, image.width, 3), dtype=np.uint8)
    step = max(1, strip // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        whole = step >= image.height
        rgb[top:bottom] = _rgb_of_strip(image if whole else image.crop((0, top, image.width, bottom)))
    return rgb


def _rgb_of_strip(image: Image.Image) -> RGBArray:
    """Convert loaded rows of an image. Every pixel is converted by itself, so strips give the same as the whole."""
    if image.mode.startswith("I"):  # 16-bit grey, in Pillow's several spellings
        return _rgb_from_array(np.asarray(image).clip(0, 65535).astype(np.uint16))
    if image.mode == "F":
        raise ImageError("an image has floating-point pixels; convert it to 8 bits first")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _rgb_from_array(array: npt.NDArray[Any]) -> RGBArray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise ImageError(
            f"an array has shape {array.shape}; expected (H, W, 3) RGB, (H, W) grey or (H, W, 4) RGBA, not empty"
        )
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 -> 255
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise ImageError(f"an array is {array.dtype}; expected uint8 in 0..255, for example (x * 255).astype('uint8')")
    if array.shape[2] == 4:
        return rgb_from_pil(Image.fromarray(np.ascontiguousarray(array)))
    return np.array(np.broadcast_to(array, (*array.shape[:2], 3)), order="C")


def source_name(source: Any, position: int) -> str:
    """Return the name of an image in messages and result files: its path, or its position in the list."""
    if isinstance(source, EncodedImage):
        return source.name
    if isinstance(source, str):
        return public_url(source)
    return str(source) if isinstance(source, Path | ImageUrl) else f"image {position}"
