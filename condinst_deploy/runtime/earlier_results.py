"""What an earlier run left in a folder of results: its files stay, are named, and are no images of the next run."""

import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.image_files import ImageFile
from condinst_deploy.shown_text import counted
from condinst_deploy.support.input_files import real_path
from condinst_deploy.support.remote_files import local_path

OVERLAYS, LABELME, YOLO, INSTANCES, CROPS = "overlays", "labelme", "yolo", "instances", "crops"
"""Folders below that of the run."""

WITH_IMAGES = (OVERLAYS, INSTANCES, CROPS)
"""Those with files that a later run could take for its images."""


class EarlierFiles:
    """Files of a folder of results that were there before this run and that it has not replaced."""

    def __init__(self, folder: Path, lists: Sequence[str]) -> None:
        """Look at what is there; the files of a folder that cannot be listed are not known.

        Args:
            folder: of the results; it may be missing.
            lists: names of the files that list the results of all images.
        """
        self._folder = folder
        self._names = {name: set(_files(folder / name)) for name in (OVERLAYS, LABELME, YOLO, INSTANCES, CROPS)}
        self.has_results = any((folder / name).exists() for name in lists)
        self.changed = 0  # files that this run wrote

    def replaced(self, path: Path) -> None:
        """A file of this run has the name now."""
        self._names[path.parent.name].discard(path.name)
        self.changed += 1

    def __str__(self) -> str:
        """Count them by folder; the text is empty if there are none."""
        return ", ".join(
            f"{counted(len(names), 'file')} in {self._folder / folder} ({_first_of(names)})"
            for folder, names in self._names.items()
            if names
        )


def _first_of(names: set[str]) -> str:
    return min(names) + (", ..." if len(names) > 1 else "")


def _files(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # a folder may be for writing alone
        return


def without_results(
    images: Sequence[ImageFile], named: Sequence[str | Path], folder: Path
) -> tuple[list[ImageFile], list[ImageFile]]:
    """Divide images into those to predict, and those that lie where the run writes images itself.

    Args:
        images: files, folders' files among them.
        named: what the user gave.
        folder: of the results.

    Raises:
        ConfigError: an image that was named itself, or every image, lies where the run writes.
    """
    places = {real_path(folder / name): folder / name for name in WITH_IMAGES}
    given = {local_path(path) if isinstance(path, str) else path for path in named}

    @cache
    def place_of(parent: Path) -> Path | None:
        real = real_path(parent)
        return next((shown_as for place, shown_as in places.items() if real.is_relative_to(place)), None)

    kept: list[ImageFile] = []
    left_out: list[ImageFile] = []
    for image in images:
        place = place_of(image.parent) if isinstance(image, Path) else None
        if place is not None and image in given:
            raise _to_be_written_over(image, place)
        (kept if place is None else left_out).append(image)
    if left_out and not kept:
        path = left_out[0]
        assert isinstance(path, Path)
        raise _to_be_written_over(path, place_of(path.parent) or folder)
    return kept, left_out


def check_apart(images: Sequence[ImageFile], folder: Path) -> None:
    """Check that no image lies in a folder that a run writes images into.

    Raises:
        ConfigError: one does.
    """
    place = real_path(folder)
    seen: set[Path] = set()
    for image in images:
        if not isinstance(image, Path) or image.parent in seen:
            continue
        seen.add(image.parent)
        if real_path(image.parent) == place:
            raise _to_be_written_over(image, folder)


def _to_be_written_over(image: ImageFile, place: Path) -> ConfigError:
    return ConfigError(
        f"{image} is to be read, and this run writes its own files into {place}; name another folder for them"
    )
