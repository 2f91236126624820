"""Checks of image files by their headers: whether they can be read and have the annotated size."""

from collections.abc import Sequence
from functools import partial

from condinst_deploy.data.annotation_arrays import Record
from condinst_deploy.data.data_report import Finding
from condinst_deploy.imaging.image_sizes import Header

MOST_NAMED = 20
"""Files that a finding lists: they have to be found and mended one by one."""


def header_findings(records: Sequence[Record], headers: Sequence[Header], noun: str = "image") -> list[Finding]:
    """Files that cannot be read, and sizes that differ from the files', by what is wrong with them.

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
        found(
            "that EXIF turns by 90 degrees, annotated for the pixels as stored",
            "images are turned upright when they are read: annotate the upright image, or remove the EXIF orientation",
            exif,
        ),
        found("whose height and width are annotated the other way round", "", swapped),
        found("of another size than annotated", "annotations must be of the files themselves", other),
    ]


def _sizes_named(record: Record, header: Header) -> str:
    (height, width), (own_height, own_width) = record.size, header.size
    return f"image {record.image_id}: {record.path.name} is {own_width}x{own_height}, annotated {width}x{height}"
