"""Pictures of any kind -> upright RGB `uint8 (H, W, 3)`."""

import warnings
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from condinst_deploy.errors import ImageError

RGBArray = npt.NDArray[np.uint8]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"})
"""File names that a folder is searched for, in any case."""


def expand_sources(sources: Any) -> list[Any]:
    """One entry a picture: folders and glob patterns become their files, sorted; the rest stays as it is.

    Raises:
        ImageError: a folder has no pictures, or a pattern matches nothing.
    """
    if not isinstance(sources, list | tuple):
        sources = [sources]
    return [entry for source in sources for entry in _expanded(source)]


def _expanded(source: Any) -> Iterator[Any]:
    if not isinstance(source, str | Path):
        yield source
        return
    path = Path(source)
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not found:
            raise ImageError(f"{path} has no pictures; expected files ending in {', '.join(sorted(SUFFIXES))}")
        yield from found
    elif not path.exists() and has_magic(str(source)):
        found = sorted(Path(p) for p in glob(str(source), recursive=True) if not Path(p).is_dir())  # noqa: PTH207
        if not found:
            raise ImageError(f"nothing matches {source}")
        yield from found
    else:
        yield path


def rgb_from(source: Any) -> RGBArray:
    """Decode or convert one picture.

    Args:
        source: a path; an array `(H, W)`, `(H, W, 1)`, `(H, W, 3)` RGB or `(H, W, 4)` RGBA, uint8, uint16
            or bool; a PIL image; or a tensor `(3, H, W)`, `(1, H, W)` or `(H, W)`, uint8.

    Returns:
        `(H, W, 3)` uint8 RGB. EXIF orientation is applied; transparency is shown on white; 16 bits are
        scaled to 8.

    Raises:
        ImageError: it cannot be read or has a form that is not supported.
    """
    if isinstance(source, str | Path):
        return _rgb_from_path(Path(source))
    if isinstance(source, Image.Image):
        return _rgb_from_pil(source)
    if isinstance(source, np.ndarray):
        return _rgb_from_array(source)
    if hasattr(source, "detach") and hasattr(source, "permute"):  # a tensor, without importing torch for it
        array = source.detach().cpu().numpy()
        if array.ndim == 3:
            if array.shape[0] not in (1, 3, 4):
                raise ImageError(f"a tensor has shape {array.shape}; expected (3, H, W), channels first")
            array = array.transpose(1, 2, 0)
        return _rgb_from_array(array)
    raise ImageError(f"a picture is a {type(source).__name__}; expected a path, an array, a PIL image or a tensor")


def _rgb_from_path(path: Path) -> RGBArray:
    if not path.is_file():
        raise ImageError(f"no picture at {path}")
    try:
        with warnings.catch_warnings():
            # a large photograph is no attack on whoever asked for it by name; the hard limit stays
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _rgb_from_pil(image)
    except UnidentifiedImageError as e:
        raise ImageError(f"{path} is not a picture in a known format") from e
    except Image.DecompressionBombError as e:
        raise ImageError(f"{path} is too large to be decoded safely ({e})") from e
    except (OSError, SyntaxError, ValueError, EOFError) as e:
        raise ImageError(f"{path} cannot be decoded ({e}); it may be truncated or damaged") from e


def _rgb_from_pil(image: Image.Image) -> RGBArray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, in Pillow's several spellings
        return _rgb_from_array(np.asarray(image).clip(0, 65535).astype(np.uint16))
    if image.mode == "F":
        raise ImageError("a picture has floating-point pixels; convert it to 8 bits first")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.array(image.convert("RGB"))


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
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def source_name(source: Any, position: int) -> str:
    """How messages and result files call a picture: its path, or its place in the list."""
    return str(source) if isinstance(source, str | Path) else f"picture {position}"
