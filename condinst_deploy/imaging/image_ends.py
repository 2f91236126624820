"""Last bytes of image files: a file that was cut off lacks the end of its format."""

import os
from typing import IO

from condinst_deploy.imaging import jpeg_markers

_ENDS = {"JPEG": jpeg_markers.END, "MPO": jpeg_markers.END, "PNG": b"IEND\xaeB`\x82", "GIF": b";"}
"""Last bytes of a whole file, by the format's name in Pillow."""

_READ = 64
"""Bytes that are read from the end: some programs fill a file up with zeros."""


def ends_whole(stream: IO[bytes], kind: str | None) -> bool:
    """Return whether a file ends as whole files of its format do; True for formats without such an end.

    A file that does not may still be decoded: some cameras write more behind the image.

    Args:
        stream: the open file; its position changes.
        kind: the format's name in Pillow.
    """
    end = _ENDS.get(kind or "")
    if end is None:
        return True
    length = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, length - _READ))
    return stream.read(_READ).rstrip(b"\0").endswith(end)
