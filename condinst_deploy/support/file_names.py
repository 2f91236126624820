"""Names of files that a file system takes, made from names that can be longer."""

import os

LONGEST_STEM = 240
"""Bytes of a written file's name without its suffix; file systems take 255."""


def fitting_stem(stem: str, ending: str = "") -> str:
    """A stem with an ending; of one that is too long the end is left out, with place for the ending and a suffix."""
    if len(os.fsencode(stem + ending)) <= LONGEST_STEM:
        return stem + ending
    return os.fsencode(stem)[: LONGEST_STEM - len(ending)].decode("utf-8", "ignore") + ending
