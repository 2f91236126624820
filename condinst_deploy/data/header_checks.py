"""Checks of image files by their headers: whether they can be read, are whole and have the annotated size."""

from collections.abc import Sequence
from functools import partial
from itertools import islice

from condinst_deploy.data.annotation_arrays import Record
from condinst_deploy.data.data_report import Finding
from condinst_deploy.errors import ImageError
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.imaging.image_sizes import Header

MOST_NAMED = 20
"""Files that a finding lists: they have to be found and mended one by one."""


MOST_DECODED = 200
"""Files of a set without the end of their format that are decoded, so that those that are cut off are found.

Decoding takes time, and cameras that write more behind an image do so in all their files.
"""


def header_findings(records: Sequence[Record], headers: Sequence[Header], noun: str = "image") -> list[Finding]:
    """Files that cannot be read or are cut off, and sizes that differ from the files', by what is wrong with them.

    Only files that lack the end of their format are decoded.

    Args:
        records: the images as annotated.
        headers: of their files, in the same order.
        noun: what a message calls one of them.
    """
    found = partial(Finding.of, noun, most=MOST_NAMED)
    exif, swapped, other, unreadable = [], [], [], []
    for record, header in zip(records, headers, strict=True):
        if header.problem:
            unreadable.append(f"image {record.image_id}: {record.path.name}, {header.problem}")
        elif header.size != record.size:
            wrong = _sizes_named(record, header)
            if header.turned and header.stored == record.size:
                exif.append(wrong)
            elif header.size == record.size[::-1]:
                swapped.append(wrong)
            else:
                other.append(wrong)
    return [
        found("that cannot be read", "", unreadable),
        found("that cannot be decoded to the end", "they are cut off: copy them again", _cut_off(records, headers)),
        found(
            "that EXIF turns by 90 degrees, annotated for the pixels as stored",
            "images are turned upright when they are read: annotate the upright image, or remove the EXIF orientation",
            exif,
        ),
        found("whose height and width are annotated the other way round", "", swapped),
        found("of another size than annotated", "annotations must be of the files themselves", other),
    ]


def _cut_off(records: Sequence[Record], headers: Sequence[Header]) -> list[str]:
    suspects = (row for row, header in enumerate(headers) if not header.problem and not header.ends_whole)
    named = []
    for row in islice(suspects, MOST_DECODED):
        record = records[row]
        try:
            rgb_from(record.path)
        except ImageError:
            named.append(f"image {record.image_id}: {record.path.name}")
    return named


def _sizes_named(record: Record, header: Header) -> str:
    (height, width), (own_height, own_width) = record.size, header.size
    return f"image {record.image_id}: {record.path.name} is {own_width}x{own_height}, annotated {width}x{height}"
