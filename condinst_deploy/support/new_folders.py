"""Folders that a run makes for its results, and removes again where nothing was written into them."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path


def make_folder(folder: Path) -> list[Path]:
    """Make a folder with those above it; returns those that were not there, from the inside out.

    Raises:
        OSError, ValueError: it cannot be made.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    return made


def remove_unused(made: Sequence[Path]) -> None:
    """Remove the folders that `make_folder` made, up to the first one that is not empty."""
    with suppress(OSError):
        for folder in made:
            folder.rmdir()
