"""A worker: one loaded model that turns shards into parts. It knows neither Ray nor the other workers."""

import os
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from condinst_deploy.errors import ArtifactError, BackendError, ConfigError, ImageError
from condinst_deploy.imaging.encoded_image import EncodedImage
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.serving.batch.batch_options import BatchOptions
from condinst_deploy.serving.batch.output_rows import Classes, ErrorKind, ImageRow
from condinst_deploy.serving.batch.parquet_inputs import ImageSource, sources_of_rows
from condinst_deploy.serving.batch.parts import is_whole, part_encoder, part_name
from condinst_deploy.serving.batch.run_manifest import FILE
from condinst_deploy.serving.batch.shards import PathSpan, Shard, Span
from condinst_deploy.serving.batch.storage import OutputFolder, output_folder
from condinst_deploy.shown_text import counted
from condinst_deploy.support.digests import sha256_of, sha256_of_bytes
from condinst_deploy.support.remote_files import image_content, is_url, public_url
from condinst_deploy.support.versions import __version__

READERS = 8
"""Files behind URLs that are read at the same time; twice as many are held."""

FEWEST_UNREAD = 10
"""If none of at least this many images of a shard can be read, the storage is considered unreachable."""


@dataclass(frozen=True)
class Job:
    """Input of every worker of a run."""

    options: BatchOptions
    model_sha256: str
    run_sha256: str  # of the run's manifest in the output folder
    version: str = __version__  # of this package on the driver's machine


@dataclass(frozen=True)
class ShardReport:
    """Outcome of a shard."""

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


OnImage = Callable[[int], None]


class ShardWorker(AbstractContextManager["ShardWorker"]):
    """Runs shards of a job."""

    def __init__(self, job: Job) -> None:
        """Load the model.

        Raises:
            ArtifactError: the file is not that of the run's manifest.
            ConfigError: this machine has another version of the package than the driver, or sees another output folder.
            CondInstError: the model cannot be used.
        """
        options = job.options
        self._options, self._out = options, output_folder(options.out)
        _check_machine(job, self._out)
        self.predictor = options.detection.load(options.model)
        manifest = self.predictor.manifest
        self._classes = Classes(tuple(manifest.class_names), tuple(manifest.category_ids))
        self.name = f"{os.getpid()}@{socket.gethostname()}"

    @property
    def note(self) -> str:
        """Return the description of how the model runs."""
        backend = self.predictor.backend
        return f"{backend.name} on {backend.device}"

    def run(self, shard: Shard, on_image: OnImage = lambda done: None) -> ShardReport:
        """Write the part of a shard.

        Args:
            shard: the images.
            on_image: called with the number of its images that are done.

        Raises:
            CondInstError: see `steps`.
        """
        steps = self.steps(shard)
        while True:
            try:
                on_image(next(steps))
            except StopIteration as end:
                report: ShardReport = end.value
                return report

    def steps(self, shard: Shard) -> Generator[int, None, ShardReport]:
        """Write the part of a shard; yields the number of its images that are done, and returns the report.

        Raises:
            ImageError: no image of the shard can be read, so the storage is not reachable.
            BackendError: the model fails on every image of the shard.
            DataError: a Parquet file cannot be read.
            OutputError: the part cannot be written.
        """
        started, name = time.perf_counter(), part_name(shard.index, self._options.format)
        if is_whole(self._out, name, self._options.format):
            return ShardReport(shard.index, len(shard), 0, 0, 0.0, self.name, existed=True)
        try:
            part, failed, detections = yield from self._encoded(shard, self._rows(shard))
        except BackendError:  # one image can be the reason, by numbers that float16 does not have for example
            part, failed, detections = yield from self._encoded(shard, self._rows_alone(shard))
        self._out.write(name, part)
        seconds = time.perf_counter() - started
        return ShardReport(shard.index, len(shard), failed, detections, seconds, self.name)

    def _encoded(self, shard: Shard, rows: Iterator[ImageRow]) -> Generator[int, None, tuple[bytes, int, int]]:
        """The content of a part, the number of images with errors, and that of detections."""
        encoder, errors, detections = part_encoder(self._options.format, self._classes), Counter[str](), 0
        reason = None
        for done, row in enumerate(rows, start=1):
            encoder.add(row)
            yield done
            if row.detections is None:
                errors[row.error or ""] += 1
                reason = row.reason
            else:
                detections += len(row.detections)
        if errors["missing"] + errors["unreadable"] == len(shard) >= FEWEST_UNREAD:
            raise ImageError(
                f"none of {counted(len(shard), 'image')} of shard {shard.index} can be read, the last one because"
                f" {reason}; see that the storage is in reach, then run the same command again"
            )
        return encoder.finish(), errors.total(), detections

    def close(self) -> None:
        """Release the model."""
        self.predictor.close()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rows(self, shard: Shard) -> Generator[ImageRow, None, None]:
        return rows_of(self.predictor, self._sources(shard), shard.first)

    def _rows_alone(self, shard: Shard) -> Iterator[ImageRow]:
        """Rows of images that the network is given one by one; those that it fails on have an error."""
        error, worked = None, False
        for position, source in enumerate(self._sources(shard), start=shard.first):
            try:
                for row in rows_of(self.predictor, iter((source,)), position):
                    worked |= row.detections is not None
                    yield row
            except BackendError as e:
                error = e
                yield ImageRow(position, public_url(source.name), None, "failed", str(e))
        if error is not None and not worked:
            raise BackendError(f"the model fails on every image of shard {shard.index}: {error}") from error

    def _sources(self, shard: Shard) -> Iterator[ImageSource]:
        return chain.from_iterable(_sources(span, self._options.column) for span in shard.spans)


def _check_machine(job: Job, out: OutputFolder) -> None:
    """Check that this machine has what the driver has: package, model and output folder."""
    host, model = socket.gethostname(), job.options.model
    if job.version != __version__:
        raise ConfigError(
            f"condinst-deploy on {host} is {__version__}, and {job.version} where the command was started; install the"
            " same version on every machine"
        )
    if not model.is_file() or sha256_of(model) != job.model_sha256:
        raise ArtifactError(
            f"{model} on {host} is not the model of this run; every machine needs the same file at the same path, for"
            " example on a shared disk"
        )
    manifest = out.read(FILE)
    if manifest is None or sha256_of_bytes(manifest) != job.run_sha256:
        raise ConfigError(
            f"{out.name} on {host} has no {FILE} of this run; every machine needs to reach the same folder or bucket,"
            " and no other run may write into it"
        )


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
                if source.content is None and source.damage is None and is_url(source.name):
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
    if source.damage is not None:
        return _Loaded(source.name, None, "damaged", source.damage)
    if source.content is None:
        return _Loaded(source.name, Path(source.name))  # the predictor's threads read it
    if not source.content:
        return _Loaded(source.name, None, "damaged", "the row has no content")
    return _Loaded(source.name, EncodedImage(source.name, source.content))


def _downloaded(url: str) -> _Loaded:
    try:
        return _Loaded(url, EncodedImage(public_url(url), image_content(url)))
    except ImageError as e:
        cause = e.__cause__
        kind: ErrorKind = "missing" if isinstance(cause, FileNotFoundError) else "unreadable" if cause else "damaged"
        return _Loaded(url, None, kind, str(e))


def _unread(image: _Loaded, position: int) -> ImageRow:
    return ImageRow(position, public_url(image.name), None, image.error, image.reason)


def _undecoded(image: _Loaded, position: int, error: ImageError) -> ImageRow:
    kind: ErrorKind = "damaged"
    if isinstance(image.source, Path):
        cause = error.__cause__
        # an error of the disk, or of the memory; Pillow's own errors have no number
        if isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None):
            kind = "unreadable"
        try:
            if not image.source.is_file() and image.source.exists():
                kind = "unreadable"  # a folder, a device, a pipe, which would be waited for
            else:
                with image.source.open("rb"):
                    pass
        except FileNotFoundError:
            kind = "missing"
        except (OSError, ValueError):  # no permission; a name that no file can have
            kind = "unreadable"
    return ImageRow(position, public_url(image.name), None, kind, str(error))
