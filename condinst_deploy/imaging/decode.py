"""Images of any kind -> upright RGB `uint8 (H, W, 3)`."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import glob, has_magic
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from condinst_deploy.errors import ImageError

RGBArray = npt.NDArray[np.uint8]

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2", ".avif"}
)
"""File names that a folder is searched for, in any case."""


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
"""What makes an image of each orientation upright."""

_opening = Lock()
"""Held while a warning is silenced: Python keeps the filters of warnings for the whole process, not for a thread."""


@dataclass(frozen=True)
class EncodedImage:
    """The content of an image file that is in memory, for example from an upload or an object store."""

    name: str  # what messages call it
    content: bytes


def expand_sources(sources: Any) -> list[Any]:
    """One entry an image: folders and glob patterns become their files, sorted; the rest stays as it is.

    Raises:
        ImageError: a folder has no images, or a pattern matches nothing.
    """
    if not isinstance(sources, list | tuple):
        sources = [sources]
    try:
        return [entry for source in sources for entry in _expanded(source)]
    except OSError as e:
        raise ImageError(f"{e.filename} cannot be looked up ({e.strerror})") from e


def existing_sources(sources: Sequence[str]) -> list[Path]:
    """The images of paths, folders and patterns; single ones may be missing, to be told when they are read.

    Raises:
        ImageError: not one is there, a folder has no images, or a pattern matches nothing.
    """
    paths: list[Path] = expand_sources(list(sources))
    if not any(path.exists() for path in paths):
        raise ImageError(f"no image at {', '.join(map(str, paths[:3]))}; expected images, folders or patterns")
    return paths


def _expanded(source: Any) -> Iterator[Any]:
    if not isinstance(source, str | Path):
        yield source
        return
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.is_dir())
        if not found:
            raise ImageError(f"{path} has no images; expected files ending in {', '.join(sorted(SUFFIXES))}")
        yield from found
    elif not path.exists() and has_magic(str(source)):
        found = sorted(Path(p) for p in glob(str(source), recursive=True) if not Path(p).is_dir())  # noqa: PTH207
        if not found:
            raise ImageError(f"nothing matches {source}")
        yield from found
    else:
        yield path


def rgb_from(source: Any) -> RGBArray:
    """Decode or convert one image.

    Args:
        source: a path; an `EncodedImage`; an array `(H, W)`, `(H, W, 1)`, `(H, W, 3)` RGB or `(H, W, 4)` RGBA, uint8,
            uint16 or bool; a PIL image; or a tensor `(3, H, W)`, `(1, H, W)` or `(H, W)`, uint8.

    Returns:
        `(H, W, 3)` uint8 RGB. EXIF orientation is applied; transparency is shown on white; 16 bits are
        scaled to 8.

    Raises:
        ImageError: it cannot be read or has a form that is not supported.
    """
    if isinstance(source, str | Path):
        with _reading(Path(source)) as stream:
            return _rgb_from_file(stream)
    if isinstance(source, EncodedImage):
        with _explained(source.name):
            return _rgb_from_file(BytesIO(source.content))
    if isinstance(source, Image.Image):
        try:
            return _rgb_from_pil(source)
        except (OSError, SyntaxError, ValueError) as e:
            raise ImageError(f"an image cannot be decoded ({e}); it may be truncated or damaged") from e
    if isinstance(source, np.ndarray):
        return _rgb_from_array(source)
    if hasattr(source, "detach") and hasattr(source, "permute"):  # a tensor, without importing torch for it
        try:
            array = source.detach().cpu().numpy()
        except TypeError as e:
            raise ImageError(f"a tensor is {source.dtype}; expected uint8 in 0..255") from e
        if array.ndim == 3:
            if array.shape[0] not in (1, 3, 4):
                raise ImageError(f"a tensor has shape {array.shape}; expected (3, H, W), channels first")
            array = array.transpose(1, 2, 0)
        return _rgb_from_array(array)
    raise ImageError(f"an image is a {type(source).__name__}; expected a path, an array, a PIL image or a tensor")


def jpeg_from(path: Path) -> bytes | None:
    """The content of a file that is an upright RGB JPEG, which is all that a JPEG decoder can do alone; else None.

    Raises:
        ImageError: it cannot be read.
    """
    with _reading(path) as stream, _opened(stream) as image:
        data = _rgb_jpeg(image, stream)
        return None if data is None or _orientation(image) in TURNS else data


def _rgb_from_file(stream: BinaryIO) -> RGBArray:
    with _opened(stream) as image:
        data = _rgb_jpeg(image, stream)
        if data is not None:
            # libjpeg-turbo like Pillow's, a copy and maybe a version of its own; that the pixels are the same is
            # tested (tests/imaging/test_jpeg.py: test_pixels_are_pillows), and Pillow's copies of them are spared
            with suppress(ValueError):  # a warning of the decoder's: Pillow decides what is damaged
                pixels: RGBArray = simplejpeg.decode_jpeg(data, colorspace="RGB")
                turn = TURNS.get(_orientation(image))
                return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn))
        return _rgb_from_pil(image)


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """The open file; whatever goes wrong with it in the block is told with its name."""
    with _explained(str(path)):
        if not path.is_file():
            raise FileNotFoundError
        with path.open("rb") as stream:
            yield stream


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Every error of the block becomes an `ImageError` with the image's name."""
    try:
        yield
    except ImageError as e:
        raise ImageError(f"{name}: {e}") from e
    except FileNotFoundError as e:
        raise ImageError(f"no image at {name}") from e
    except UnidentifiedImageError as e:
        raise ImageError(f"{name} is not an image in a known format") from e
    except Image.DecompressionBombError as e:
        raise ImageError(f"{name} is too large to be decoded safely ({e})") from e
    except Exception as e:  # Pillow's decoders raise errors of any kind on damaged files
        raise ImageError(f"{name} cannot be decoded ({e}); it may be truncated or damaged") from e


def _opened(stream: BinaryIO) -> Image.Image:
    """Pillow's view of a file, of which only the head is read here."""
    with _opening, warnings.catch_warnings():
        # a large photograph is no attack on whoever asked for it by name; the hard limit stays
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(stream)


def _rgb_jpeg(image: Image.Image, stream: BinaryIO) -> bytes | None:
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB":
        return None
    stream.seek(0)
    return stream.read()


def _rgb_from_pil(image: Image.Image) -> RGBArray:
    if 0 in image.size:
        raise ImageError(f"an image is empty: its size is {image.size}")
    image.load()  # Pillow's TIFF reader turns images upright itself, and then forgets the orientation
    # not ImageOps.exif_transpose: it writes the whole EXIF anew, and fails over any odd entry of it
    turn = TURNS.get(_orientation(image))
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith("I"):  # 16-bit grey, in Pillow's several spellings
        return _rgb_from_array(np.asarray(image).clip(0, 65535).astype(np.uint16))
    if image.mode == "F":
        raise ImageError("an image has floating-point pixels; convert it to 8 bits first")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _orientation(image: Image.Image) -> Any:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # an image with EXIF that cannot be read is still an image
        return None


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
        return _rgb_from_pil(Image.fromarray(np.ascontiguousarray(array)))
    return np.array(np.broadcast_to(array, (*array.shape[:2], 3)), order="C")


def source_name(source: Any, position: int) -> str:
    """How messages and result files call an image: its path, or its place in the list."""
    if isinstance(source, EncodedImage):
        return source.name
    return str(source) if isinstance(source, str | Path) else f"image {position}"
