"""The journal of an evaluation: what was found in the finished images, kept through any interruption."""

import fcntl
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from condinst_deploy.errors import ConfigError, OutputError
from condinst_deploy.evaluation.coco_metrics import Entry
from condinst_deploy.support.digests import sha256_of_text
from condinst_deploy.support.held_folders import check_held
from condinst_deploy.support.json_text import json_text

SYNC_SECONDS = 1.0
"""A power cut loses the images of at most this many seconds; a killed process loses no finished image."""

Image = tuple[int, str]
"""An image's id in the data set, and the state of its file: another state is another image."""


class Journal(AbstractContextManager["Journal"]):
    """Lines of JSON in a file: the settings, then one line an image, in the data set's order.

    The file's name holds a hash of the settings (model, annotations, options, versions) and of the images, so that a
    run goes on only where the same run stopped. Where a run of the same settings over fewer or more images got
    further, its whole windows are taken over. What was cut off in the middle of a line is dropped.

    >>> with Journal(folder, "model.onnx", settings, images, window=1) as journal:
    ...     for image_id, _ in images[journal.finished :]:
    ...         journal.add(image_id, entries)
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: dict[str, Any],
        images: Sequence[Image],
        window: int,
        fresh: bool = False,
    ) -> None:
        """Open the journal of these settings, or begin one.

        Args:
            folder: where journals are.
            name: of the model, for people who look at the folder.
            settings: everything that the numbers depend on beside the images; plain JSON values.
            images: all of them, in the order in which they will be added.
            window: images that are run together; a window that is not whole is run again, so that the
                same images share batches and the numbers stay the same.
            fresh: start again and ignore finished images.

        Raises:
            ConfigError: another process is at work on it.
            OutputError: it cannot be written.
        """
        self._head = json_text(settings, "the settings", sort_keys=True)
        self._images = images
        digest = sha256_of_text(f"{self._head}\n{json_text(images, 'the images')}")[:12]
        self._stem = name[:60]
        self.path = folder / f"{self._stem}.{digest}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._stream = self.path.open("a+b")
        except OSError as e:
            raise self._unwritable(e) from e
        self._lock()
        self._synced = time.monotonic()
        try:
            self.finished = self._kept(window, fresh)
        except OSError as e:
            with suppress(OSError):  # it tries to write what is left in the buffer once more
                self._stream.close()
            raise self._unwritable(e) from e
        if not fresh and self.finished < len(images):
            self._take_over(window)

    def add(self, image_id: int, entries: Sequence[Entry]) -> None:
        """Append the next image's results.

        Raises:
            OutputError: the disk is full, or the folder is gone.
        """
        content = {"image_id": image_id, "file": self._images[self.finished][1], "results": entries}
        line = json_text(content, f"the results of image {image_id}") + "\n"
        try:
            check_held(self.path)
            self._stream.write(line.encode())
            self._stream.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._stream.fileno())
                self._synced = time.monotonic()
        except OSError as e:
            raise self._unwritable(e) from e
        self.finished += 1

    def entries(self) -> Iterator[Entry]:
        """All results so far, in order."""
        for _, content in self._lines(self.path):
            yield from content["results"]

    def close(self) -> None:
        """Bring everything to the disk and let others use the file.

        Raises:
            OutputError: the disk is full.
        """
        if self._stream.closed:
            return
        try:
            with self._stream:
                os.fsync(self._stream.fileno())
        except OSError as e:
            raise self._unwritable(e) from e

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            self._stream.close()
            raise ConfigError(
                f"another process is writing {self.path}; wait for it, or name another folder with --out"
            ) from e

    def _kept(self, window: int, fresh: bool) -> int:
        """Cut off what is not whole; how many images are left."""
        ends = [] if fresh else [end for end, _ in self._lines(self.path)]
        if len(ends) < len(self._images):
            ends = ends[: len(ends) // window * window]
        if not ends:
            self._stream.truncate(0)
            self._stream.write(self._head.encode() + b"\n")
        else:
            self._stream.truncate(ends[-1])
        self._stream.flush()
        return len(ends)

    def _take_over(self, window: int) -> None:
        """Add the whole windows that another run over images of the same beginning has beyond this one."""
        others = set(self.path.parent.glob("*.jsonl")) - {self.path}
        counts = {
            path: sum(1 for _ in self._lines(path)) // window * window
            for path in others
            if path.name.startswith(f"{self._stem}.")
        }
        furthest = max(counts, key=lambda path: counts[path], default=self.path)
        for _, content in islice(self._lines(furthest), self.finished, counts.get(furthest)):
            self.add(content["image_id"], content["results"])

    def _lines(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        """End in the file and content of every image's line, up to the first that is not what it should be."""
        with path.open("rb") as stream:
            if stream.readline() != self._head.encode() + b"\n":
                return
            for image, line in zip(self._images, stream, strict=False):
                try:
                    content = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    return
                if not isinstance(content, dict) or (content.get("image_id"), content.get("file")) != image:
                    return
                yield stream.tell(), content

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path} cannot be written ({error.strerror or error}); choose another place with --out"
        )
