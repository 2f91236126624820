"""The stages of an inference: one batch in the caller's thread, or a stream of images with all stages in parallel.

| threads of a stream | what they do |
| --- | --- |
| the consumer's | takes images from the iterable, yields results in order |
| `workers` | decode and resize |
| one | makes batches of equal padded shape, in the order of the images (`runtime/batching.py`) |
| one | runs the network, one batch after the other |
| `finishers` | postprocess earlier batches |

Pillow, libjpeg-turbo, numpy and the backends release Python's lock while they compute. Memory is bounded: at most
`Stages.max_in_flight` images are between the iterable and the consumer, fewer where they are large
(`runtime/held_images.py`), and `finishers` batches and two more are between the start of the network and the end of the
postprocessing.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Semaphore, get_ident
from typing import Any

from condinst_deploy.contract import ImageGeometry, InstanceDetections
from condinst_deploy.errors import BackendError, ImageError
from condinst_deploy.imaging.decode import RGBArray, source_name
from condinst_deploy.runtime.batching import BatchingLimits, BatchingPolicy
from condinst_deploy.runtime.held_images import HeldImages, decoded_bytes
from condinst_deploy.runtime.observer import BATCH, NETWORK, POSTPROCESS, Observer, observed
from condinst_deploy.runtime.preprocessing.types import Inputs, Prepare, Prepared
from condinst_deploy.support.signals import cancel, received

SECONDS_TO_LOOK = 1.0
"""Between two looks at whether a thread failed, while a result is waited for."""

BATCHES_AHEAD = 2
"""Batches that a network may run, or have run, beyond those that are postprocessed: one runs while one is copied."""

SECONDS_TO_END = 5.0
"""That a network has to stop when its stream is closed because the process was asked to stop."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The result of one image: its detections, or the error of an image that cannot be read."""

    name: str  # path, or position in the list
    image: RGBArray | None  # (H, W, 3) uint8, upright
    detections: InstanceDetections | None
    error: ImageError | None = None


@dataclass(frozen=True)
class Stages:
    """The functions of all stages, and how many images are in flight."""

    prepare: Prepare
    collate: Callable[[Sequence[Inputs]], Inputs]
    forward: Callable[[Inputs], Any]  # may return before the outputs are finished, and leave them on a device
    postprocess: Callable[[Any, Sequence[ImageGeometry]], list[InstanceDetections]]
    batch_size: int
    window: int  # images of which batches of equal padded shape are made; see `BatchingLimits.section`
    workers: int = 1
    finishers: int = 1
    most_waiting: int | None = None  # see `BatchingLimits`
    longest_wait: int | None = None
    most_bytes: int | None = None  # of decoded images that are held; None: no limit but their number
    enter_thread: Callable[[], None] | None = None  # called first in each thread; it must not fail
    observer: Observer | None = None  # called for all stages but `prepare`, which calls it itself

    @property
    def batching(self) -> BatchingLimits:
        """The limits of batches."""
        return BatchingLimits(self.batch_size, self.window, self.most_waiting, self.longest_wait, self.most_bytes)

    @property
    def max_in_flight(self) -> int:
        """Most images that are held: those in partial batches, a running batch, and the images being prepared."""
        return self.batching.most_held + self.batch_size + self.workers


def predictions(stages: Stages, images: Iterable[Any]) -> Generator[Prediction, None, None]:
    """Yield predictions of images in their order.

    An exception of the iterable is raised after the results of the images before it. When the generator ends, for any
    reason, its threads finish their current work and end.
    """
    pipeline = _Pipeline(stages)
    try:
        yield from pipeline.run(images)
    finally:
        pipeline.close()


def predicted(stages: Stages, sources: Sequence[Any]) -> list[Prediction]:
    """Return the predictions of one batch, computed in the caller's thread.

    Args:
        stages: what to run.
        sources: at most `batch_size` images of one padded shape.
    """
    names = [source_name(source, i) for i, source in enumerate(sources)]
    results: list[Prediction | None] = [None] * len(sources)
    ready: dict[int, Prepared] = {}
    for i, (source, name) in enumerate(zip(sources, names, strict=True)):
        try:
            ready[i] = _prepared(stages.prepare, source, name)
        except ImageError as e:
            results[i] = Prediction(name, None, None, e)
    if ready:
        batch = _Batch(stages, tuple(names[i] for i in ready), list(ready.values()))
        found = batch.detections(batch.outputs(batch.inputs()))
        for (i, prepared), detections in zip(ready.items(), found, strict=True):
            results[i] = Prediction(names[i], prepared.image, detections)
    return [result for result in results if result is not None]


@dataclass(frozen=True, eq=False)
class _Batch:
    """Prepared images of one padded shape, and the stages that run on them together."""

    stages: Stages
    names: tuple[str, ...]
    prepared: Sequence[Prepared]

    def inputs(self) -> Inputs:
        with observed(self.stages.observer, BATCH, self.names):
            return self.stages.collate([each.inputs for each in self.prepared])

    def outputs(self, inputs: Inputs) -> Any:
        with observed(self.stages.observer, NETWORK, self.names):
            return self.stages.forward(inputs)

    def detections(self, outputs: Any) -> list[InstanceDetections]:
        with observed(self.stages.observer, POSTPROCESS, self.names):
            # a list, so that a generator is exhausted inside the stage
            return list(self.stages.postprocess(outputs, [each.geometry for each in self.prepared]))


def _prepared(prepare: Prepare, source: Any, name: str) -> Prepared:
    """Prepare one image. Every error becomes an error of this image, so that the other images are not lost.

    An error of the backend, whose memory the image is written to, is no error of the image.
    """
    try:
        return prepare(source, name)
    except (ImageError, BackendError):
        raise
    except Exception as e:
        raise ImageError(f"{name} cannot be prepared for the network ({type(e).__name__}: {e})") from e


@dataclass(frozen=True, eq=False)
class _Image:
    """An image that is ready for the network, and the future of its result."""

    name: str
    prepared: Prepared
    result: Future[Prediction]


class _Pipeline:
    """The threads of one stream."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._workers = self._threads(stages.workers, "prepare")
        self._batcher, self._network = (self._threads(1, name) for name in ("batch", "network"))
        self._finisher = self._threads(stages.finishers, "finish")
        self._room = Semaphore(stages.finishers + BATCHES_AHEAD)  # for batches between network and results
        self._running: Future[None] | None = None  # the last batch that was given to the network
        self._network_thread: int | None = None
        self._failure: BaseException | None = None  # of a thread; errors of single images are not here
        self._policy = BatchingPolicy[_Image](stages.batching)  # only the batcher's thread uses it
        self._held = HeldImages(stages.most_bytes)

    def run(self, images: Iterable[Any]) -> Iterator[Prediction]:
        """Take images and yield results: each step takes at least one image, and more until a result is ready."""
        sources, pending = enumerate(images), deque[tuple[int, Future[Prediction]]]()
        failed: Exception | None = None
        more = True
        while more or pending:
            taken = 0
            while more and len(pending) < self._stages.max_in_flight and not (taken and pending[0][1].done()):
                try:
                    position, source = next(sources)
                except StopIteration:
                    more = False
                except Exception as e:
                    more, failed = False, e
                else:
                    pending.append((position, self._take(source, position)))
                    taken += 1
                if not more:
                    self._submit(self._batcher, self._flush)
            if pending:
                yield self._given(*pending.popleft())
        if failed is not None:
            raise failed

    def _given(self, position: int, pending: Future[Prediction]) -> Prediction:
        """Wait for a result that goes to the consumer, who then holds its image."""
        prediction = self._result(pending)
        self._held.given(position)
        return prediction

    def _result(self, pending: Future[Prediction]) -> Prediction:
        """Wait for a result, or for the failure of a thread that would have made it.

        If memory runs out, a thread can fail without a message to those that wait.
        """
        while True:
            try:
                return pending.result(timeout=SECONDS_TO_LOOK)
            except TimeoutError:
                if pending.done():
                    return pending.result()
                if self._failure is not None:
                    raise self._failure from None

    def _submit(self, executor: ThreadPoolExecutor, work: Callable[..., None], *arguments: Any) -> Future[None]:
        """Submit work; `_result` notices if the work or its thread fails."""
        future = executor.submit(work, *arguments)
        future.add_done_callback(self._note_failure)
        return future

    def _note_failure(self, done: Future[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            self._failure = done.exception()

    def close(self) -> None:
        """Cancel waiting work, let the threads finish their current work, and end them."""
        self._held.close()
        executors = (self._network, self._finisher, self._batcher, self._workers)
        for executor in executors:
            executor.shutdown(wait=False, cancel_futures=True)
        if self._running is not None and not self._running.done():
            cancel(self._network_thread)
            wait([self._running], SECONDS_TO_END)
            if received() is not None and not self._running.done():
                return  # the process ends, and a network that never ends must not keep it
        for executor in executors:
            executor.shutdown()

    def _threads(self, count: int, stage: str) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(count, f"condinst-{stage}", initializer=self._stages.enter_thread)

    def _take(self, source: Any, position: int) -> Future[Prediction]:
        name, result = source_name(source, position), Future[Prediction]()
        prepared = self._workers.submit(self._prepare, source, name, position)
        self._submit(self._batcher, self._place, name, prepared, result)
        return result

    def _prepare(self, source: Any, name: str, position: int) -> Prepared:
        """Prepare an image when there is room for it. Runs in a worker's thread."""
        self._held.begin(position)
        size = 0
        try:
            prepared = _prepared(self._stages.prepare, source, name)
            size = decoded_bytes(prepared.geometry)
            return prepared
        finally:
            self._held.decoded(position, size)

    def _place(self, name: str, prepared: Future[Prepared], result: Future[Prediction]) -> None:
        """Add the next image to the images of its padded shape. Runs in the batcher's thread."""
        try:
            image = _Image(name, prepared.result(), result)
        except ImageError as e:
            result.set_result(Prediction(name, None, None, e))
            batches = self._policy.skip()
        except BaseException as e:
            result.set_exception(e)
            batches = self._policy.skip()
        else:
            geometry = image.prepared.geometry
            batches = self._policy.add(geometry.padded, image, decoded_bytes(geometry))
        for batch in batches:
            self._batch(batch)

    def _flush(self) -> None:
        """Run the partial batches at the end of the images. Runs in the batcher's thread."""
        for batch in self._policy.flush():
            self._batch(batch)

    def _batch(self, images: list[_Image]) -> None:
        batch = _Batch(self._stages, tuple(i.name for i in images), [i.prepared for i in images])
        with _errors_to(images):
            self._running = self._submit(self._network, self._forward, images, batch, batch.inputs())

    def _forward(self, images: list[_Image], batch: _Batch, inputs: Inputs) -> None:
        self._network_thread = get_ident()
        self._room.acquire()
        finishing: Future[None] | None = None
        try:
            with _errors_to(images):
                outputs = batch.outputs(inputs)
                finishing = self._submit(self._finisher, self._finish, images, batch, outputs)
                # also where the stream is closed before the batch is postprocessed
                finishing.add_done_callback(lambda _: self._room.release())
        finally:
            if finishing is None:
                self._room.release()

    def _finish(self, images: list[_Image], batch: _Batch, outputs: Any) -> None:
        with _errors_to(images):
            for image, detections in zip(images, batch.detections(outputs), strict=True):
                image.result.set_result(Prediction(image.name, image.prepared.image, detections))


@contextmanager
def _errors_to(images: Sequence[_Image]) -> Iterator[None]:
    """Pass any exception of the block to the callers who wait for the images."""
    try:
        yield
    except BaseException as e:
        for image in images:
            if not image.result.done():
                image.result.set_exception(e)
