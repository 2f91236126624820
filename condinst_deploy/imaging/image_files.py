"""Which image files a person means: paths, folders, patterns and URLs."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from glob import glob, has_magic
from itertools import islice
from pathlib import Path, PurePath
from typing import Any

from condinst_deploy.errors import ImageError
from condinst_deploy.imaging.image_urls import ImageUrl, images_behind
from condinst_deploy.support.remote_files import entry_type, is_url, local_path

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
    | {".ppm", ".pgm", ".pnm", ".jp2", ".j2k", ".avif"}
)
"""Endings of the files that are taken from a folder; upper and lower case are the same."""

STORAGE_FAILURES = 3
"""Failed URLs after which a storage counts as not reachable."""

MOST_LOOKED_AT = 10_000
"""Files and folders below a folder without images that are looked at for a better message."""

ImageFile = Path | ImageUrl
"""A file that an image is read from."""


def expand_sources(sources: Any, *, recursive: bool = False) -> list[Any]:
    """Return one entry for each image. Folders and glob patterns become their files, sorted; other entries are kept.

    Texts that are URLs are taken as paths are; `file://` URLs become paths.

    Raises:
        ImageError: a folder has no images, a pattern matches nothing, or a storage cannot be read.
        ConfigError: a library for a URL is missing.
    """
    if not isinstance(sources, list | tuple):
        sources = [sources]
    try:
        return [entry for source in sources for entry in _expanded(source, recursive)]
    except OSError as e:
        raise ImageError(f"{e.filename} cannot be looked up ({e.strerror})") from e


def existing_sources(sources: Sequence[str], *, recursive: bool = False) -> list[ImageFile]:
    """Return the images of paths, folders, patterns and URLs. Some may be missing; reading them raises the error.

    Raises:
        ImageError: not one is there, a folder has no images, a pattern matches nothing, or a storage cannot be read.
        ConfigError: a library for a URL is missing.
    """
    files: list[ImageFile] = expand_sources(list(sources), recursive=recursive)
    if any(isinstance(file, Path) and file.exists() for file in files):
        return files
    failures: list[ImageError] = []
    for url in (file.url for file in files if isinstance(file, ImageUrl)):
        try:
            if entry_type(url) is not None:
                return files
        except ImageError as e:
            failures.append(e)
            if len(failures) == STORAGE_FAILURES:
                break
    if failures:
        raise failures[0]
    raise ImageError(f"no image at {', '.join(map(str, files[:3]))}; expected images, folders, patterns or URLs")


def _expanded(source: Any, recursive: bool) -> Iterator[Any]:
    if not isinstance(source, str | Path):
        yield source
        return
    if isinstance(source, str) and is_url(source):
        yield from images_behind(source, is_image_name, recursive=recursive)
        return
    path = local_path(source) if isinstance(source, str) else source
    source = str(path)
    if path.is_dir():
        inside = path.rglob("*") if recursive else path.iterdir()
        found = sorted(p for p in inside if is_image_name(p) and not p.is_dir())
        if not found:
            raise ImageError(
                f"{path} has no images{_deeper(path)}; expected files ending in {', '.join(sorted(SUFFIXES))}"
            )
        yield from found
    elif not path.exists() and has_magic(source):
        found = sorted(Path(p) for p in glob(source, recursive=True) if not Path(p).is_dir())  # noqa: PTH207
        if not found:
            raise ImageError(f"nothing matches {source}")
        yield from found
    else:
        yield path


def _deeper(folder: Path) -> str:
    """What to do where a folder's images lie in its subfolders; nothing is said after `MOST_LOOKED_AT` entries."""
    with suppress(OSError):
        for path in islice(folder.rglob("*"), MOST_LOOKED_AT):
            if is_image_name(path) and path.parent != folder:
                return (
                    f" itself, but {path} lies in a subfolder: name the subfolder or the pattern"
                    f" '{folder}/**/*{path.suffix}', or give condinst-predict --recursive"
                )
    return ""


def is_image_name(path: PurePath) -> bool:
    """Return True if a folder's file is taken for an image; macOS writes notes on the file NAME into `._NAME`."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")
