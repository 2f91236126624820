"""Markers of JPEG files (ITU-T T.81, annex B): where an image ends, and in how many scans it is coded."""

import re

from condinst_deploy.errors import ImageError

END = b"\xff\xd9"
MOST_SCANS = 100
"""Scans of a JPEG that is decoded, as in libtiff; usual progressive ones have about ten."""

_LAST_BYTES = 1024
"""In which the end of a JPEG is looked for; some programs write something behind it."""

_SCAN = b"\xff\xda"
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""A marker with a segment, or the end; inside compressed pixels a zero or a restart (D0 to D7) follows every 255."""


def has_end(data: bytes) -> bool:
    """Return whether the end of a JPEG is among its last bytes."""
    return END in data[-_LAST_BYTES:]


def check_scans(data: bytes) -> None:
    """Check that a JPEG can be decoded in a time that its size promises: each scan costs as much as the whole image.

    Only the first image of the file counts: phones write a film behind it, in which any bytes occur.

    Raises:
        ImageError: it has more than `MOST_SCANS` scans.
    """
    if data.count(_SCAN) > MOST_SCANS and _has_more_scans(data):
        raise ImageError(
            f"it is a JPEG of more than {MOST_SCANS} scans, and each costs as much time as the whole image; write it"
            " again from a program that you trust"
        )


def _has_more_scans(data: bytes) -> bool:
    scans, position = 0, 0
    while (found := _MARKER.search(data, position)) and (marker := found[0]) != END:
        scans += marker == _SCAN
        if scans > MOST_SCANS:
            return True
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")  # of what follows, these two bytes included
        position = found.end() + max(2, length)
    return False
