"""A worker: one loaded model that turns shards into parts. It knows neither Ray nor the other workers."""

import os
import socket
import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from condinst_deploy.errors import ArtifactError, ImageError
from condinst_deploy.imaging.decode import EncodedImage
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.serving.batch.options import BatchOptions
from condinst_deploy.serving.batch.parquet_rows import ImageSource, sources_of_rows
from condinst_deploy.serving.batch.parts import is_whole, part_encoder, part_name
from condinst_deploy.serving.batch.rows import Classes, ErrorKind, ImageRow
from condinst_deploy.serving.batch.shards import PathSpan, Shard, Span
from condinst_deploy.serving.batch.storage import is_url, output_folder, public_url, read_image
from condinst_deploy.support.digests import sha256_of

READERS = 8
"""Files behind URLs that are read at the same time; twice as many are held."""

ATTEMPTS = 3
"""Times that a file behind a URL is read before it counts as unreadable."""

FEWEST_UNREAD = 10
"""Of a shard of so many images one at least must be read: otherwise the storage is out of reach."""


@dataclass(frozen=True)
class Job:
    """What every worker of a run is given."""

    options: BatchOptions
    model_sha256: str


@dataclass(frozen=True)
class ShardReport:
    """What a worker did with a shard."""

    index: int
    images: int
    failed: int  # images that have an error
    detections: int
    seconds: float
    worker: str  # process and host
    existed: bool = False  # another worker had written the part


class _Loaded(NamedTuple):
    """An image whose content was read, or could not be."""

    name: str
    source: Path | EncodedImage | None
    error: ErrorKind | None = None
    reason: str | None = None


class ShardWorker(AbstractContextManager["ShardWorker"]):
    """Runs shards of a job."""

    def __init__(self, job: Job) -> None:
        """Load the model.

        Raises:
            ArtifactError: the file is not that of the run's manifest.
            CondInstError: the model cannot be used.
        """
        options = job.options
        self._options, self._out = options, output_folder(options.out)
        if not options.model.is_file() or sha256_of(options.model) != job.model_sha256:
            raise ArtifactError(
                f"{options.model} on {socket.gethostname()} is not the model of this run; every machine needs the same"
                " file at the same path, for example on a shared disk"
            )
        self.predictor = options.detection.load(options.model)
        manifest = self.predictor.manifest
        self._classes = Classes(tuple(manifest.class_names), tuple(manifest.category_ids))
        self.name = f"{os.getpid()}@{socket.gethostname()}"

    @property
    def note(self) -> str:
        """How the model runs."""
        backend = self.predictor.backend
        return f"{backend.name} on {backend.device}"

    def run(self, shard: Shard) -> ShardReport:
        """Write the part of a shard.

        Raises:
            ImageError: no image of the shard can be read, so the storage is out of reach.
            DataError: a Parquet file cannot be read.
            OutputError: the part cannot be written.
        """
        started, name = time.perf_counter(), part_name(shard.index, self._options.format)
        if is_whole(self._out, name, self._options.format):
            return ShardReport(shard.index, len(shard), 0, 0, 0.0, self.name, existed=True)
        encoder = part_encoder(self._options.format, self._classes)
        unread, failed, detections = 0, 0, 0
        last: ImageRow | None = None
        for row in self._rows(shard):
            encoder.add(row)
            if row.detections is None:
                failed += 1
                unread += row.error != "damaged"
                last = row
            else:
                detections += len(row.detections)
        if last is not None and unread == len(shard) >= FEWEST_UNREAD:
            raise ImageError(
                f"none of the {unread} images of shard {shard.index} can be read, the last one because {last.reason};"
                " see that the storage is in reach, then run the same command again"
            )
        self._out.write(name, encoder.finish())
        seconds = time.perf_counter() - started
        return ShardReport(shard.index, len(shard), failed, detections, seconds, self.name)

    def close(self) -> None:
        """Release the model."""
        self.predictor.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, shard: Shard) -> Generator[ImageRow, None, None]:
        sources = chain.from_iterable(_sources(span, self._options.column) for span in shard.spans)
        return rows_of(self.predictor, sources, shard.first)


def rows_of(predictor: Predictor, sources: Iterator[ImageSource], first: int) -> Generator[ImageRow, None, None]:
    """Make a row of each image, in order. Contents are read ahead of the predictor, and a bounded number is held.

    Args:
        predictor: the model.
        sources: the images.
        first: position of the first image.
    """
    waiting: deque[_Loaded] = deque()  # images that no row was made of yet, in order
    position = first
    with closing(_loaded(sources)) as loaded, closing(predictor.stream(_readable(loaded, waiting))) as stream:
        for prediction in stream:
            while waiting[0].source is None:
                yield _unread(waiting.popleft(), position)
                position += 1
            image = waiting.popleft()
            if prediction.error is None:
                yield ImageRow(position, public_url(image.name), prediction.detections)
            else:
                yield _undecoded(image, position, prediction.error)
            position += 1
    while waiting:
        yield _unread(waiting.popleft(), position)
        position += 1


def _readable(loaded: Iterator[_Loaded], waiting: deque[_Loaded]) -> Iterator[Path | EncodedImage]:
    """The images that the predictor is given; the others only wait for their turn."""
    for image in loaded:
        source = image.source
        # the predictor holds the content as long as it needs it; here it only matters that there is one
        waiting.append(
            image._replace(source=EncodedImage(image.name, b"")) if isinstance(source, EncodedImage) else image
        )
        if source is not None:
            yield source


def _sources(span: Span, column: str | None) -> Iterator[ImageSource]:
    if isinstance(span, PathSpan):
        return (ImageSource(path, None) for path in span.paths)
    return sources_of_rows(span.file, span.first, span.count, column)


def _loaded(sources: Iterator[ImageSource]) -> Generator[_Loaded, None, None]:
    """Read contents, those behind URLs in threads ahead of the predictor; order is kept."""
    pending: deque[Future[_Loaded]] = deque()
    with ThreadPoolExecutor(READERS, "condinst-read") as pool:
        try:
            for source in sources:
                if source.content is None and is_url(source.name):
                    pending.append(pool.submit(_downloaded, source.name))
                else:
                    pending.append(_resolved(_opened(source)))
                while pending and (pending[0].done() or len(pending) > 2 * READERS):
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _resolved(image: _Loaded) -> Future[_Loaded]:
    future: Future[_Loaded] = Future()
    future.set_result(image)
    return future


def _opened(source: ImageSource) -> _Loaded:
    if source.content is None:
        return _Loaded(source.name, Path(source.name))  # the predictor's threads read it
    if not source.content:
        return _Loaded(source.name, None, "damaged", "the row has no content")
    return _Loaded(source.name, EncodedImage(source.name, source.content))


def _downloaded(url: str) -> _Loaded:
    shown = public_url(url)
    for attempt in range(ATTEMPTS):
        try:
            return _Loaded(url, EncodedImage(shown, read_image(url)))
        except FileNotFoundError:
            return _Loaded(url, None, "missing", f"no image at {shown}")
        except ImageError as e:
            return _Loaded(url, None, "damaged", str(e))
        except Exception as e:  # each storage library has exceptions of its own
            reason = (str(e).splitlines() or [""])[0][:200] or type(e).__name__
        if attempt + 1 < ATTEMPTS:
            time.sleep(0.5 * 2**attempt)
    return _Loaded(url, None, "unreadable", f"{shown} cannot be read ({reason})")


def _unread(image: _Loaded, position: int) -> ImageRow:
    return ImageRow(position, public_url(image.name), None, image.error, image.reason)


def _undecoded(image: _Loaded, position: int, error: ImageError) -> ImageRow:
    kind: ErrorKind = "damaged"
    if isinstance(image.source, Path):
        try:
            with image.source.open("rb"):
                pass
        except FileNotFoundError:
            kind = "missing"
        except (OSError, ValueError):  # no permission; a name that no file can have
            kind = "unreadable"
    return ImageRow(position, public_url(image.name), None, kind, str(error))
