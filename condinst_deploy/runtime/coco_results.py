"""Result files: a COCO results list, written as it grows, and the images that it names."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.imaging.image_files import ImageFile
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.json_text import json_text


class _Dropped(Exception):
    """Ends the block of a file that is not to get its name."""


class ResultsWriter:
    """Appends the detections of one image after the other; memory does not grow with their number."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.count = 0
        self.is_dropped = False  # True: an earlier file of the name stays

    def add(self, image_id: int, detections: InstanceDetections) -> None:
        """Append all detections of an image."""
        self.add_entries(detections.to_coco(image_id))

    def add_entries(self, entries: Iterable[dict[str, Any]]) -> None:
        """Append entries that are made already."""
        for entry in entries:
            self._stream.write((",\n" if self.count else "") + json_text(entry, "a result"))
            self.count += 1


@contextmanager
def coco_results(path: Path) -> Iterator[ResultsWriter]:
    """Write a COCO results file; it gets its name when the block ends well, unless the block drops it.

    Raises:
        OutputError: the file cannot be written.
    """
    with suppress(_Dropped), atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        stream.write("[")
        writer = ResultsWriter(stream)
        yield writer
        if writer.is_dropped:
            raise _Dropped
        stream.write("]\n")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json_text(value, str(path), indent=1) + "\n", encoding="utf-8")


def image_ids(paths: Sequence[ImageFile]) -> list[int]:
    """COCO image ids: the file names' numbers where all have different ones (COCO's do), else 1, 2, ...

    A number of more than 63 bits is none: other readers of COCO's files have no room for it.
    """
    stems = [path.stem for path in paths]
    if all(stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers) and max(numbers, default=0) < 2**63:
            return numbers
    return list(range(1, len(paths) + 1))
