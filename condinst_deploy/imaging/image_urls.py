"""Images behind URLs: one file, the files of a folder, or those that match a pattern."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePath, PurePosixPath

from condinst_deploy.errors import ImageError
from condinst_deploy.support.remote_files import entry_type, image_content, is_pattern, list_files, public_url


@dataclass(frozen=True)
class ImageUrl:
    """An image file behind a URL that fsspec opens; its content is read when the image is decoded."""

    url: str

    @property
    def stem(self) -> str:
        """The file's name without its ending; `image` if the URL has none."""
        return PurePosixPath(_name_in(self.url)).stem.replace("\0", "") or "image"

    def content(self) -> bytes:
        """Read the file.

        Raises:
            ImageError: it is not there, cannot be read or is too large.
        """
        return image_content(self.url)

    def __str__(self) -> str:
        """The URL as messages and results name it: without a password."""
        return public_url(self.url)


def images_behind(url: str, is_image: Callable[[PurePath], bool], *, recursive: bool = False) -> Iterator[ImageUrl]:
    """Return the images of a pattern or a folder behind a URL, sorted, or the URL itself.

    Args:
        url: of a file, a folder or a glob pattern.
        is_image: whether a file of a folder is taken for an image, by its name.
        recursive: take the images of the folders below, too.

    Raises:
        ImageError: there are none, or the storage cannot be read.
        ConfigError: a library is missing.
    """
    pattern = is_pattern(url)
    if not pattern and (is_image(PurePosixPath(_name_in(url))) or entry_type(url) != "directory"):
        yield ImageUrl(url)
        return
    found = [file.path for file in list_files(url, pattern, recursive)]
    if not pattern:
        found = [path for path in found if is_image(PurePosixPath(_name_in(path)))]
    if not found:
        reason = "nothing matches" if pattern else "no images at"
        raise ImageError(f"{reason} {public_url(url)}")
    yield from map(ImageUrl, found)


def _name_in(url: str) -> str:
    """Name of the file behind a URL; empty if it ends with a slash or has a host only."""
    protocol, _, rest = url.partition("://")
    if protocol.lower() in ("http", "https"):
        rest = rest.partition("?")[0].partition("#")[0]
    return rest.rpartition("/")[2]
