"""Images through decoding, batching, network and postprocessing, all of them at work at the same time.

| threads | what they do |
| --- | --- |
| the consumer's | takes images from the iterable, hands out results in order |
| `workers` | decode and resize |
| one | puts equal padded shapes together, in the images' order |
| one | runs the network, one batch after the other |
| one | postprocesses the batch before |

Pillow, libjpeg-turbo, numpy and the backends let go of Python's lock while they compute. Memory is bounded where
images are taken: no more than `Stages.max_in_flight` of them are anywhere between the iterable and the consumer.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

from condinst_deploy.contract import ImageGeometry, InstanceDetections, NetworkInputs
from condinst_deploy.errors import ImageError
from condinst_deploy.imaging.decode import RGBArray, source_name
from condinst_deploy.runtime.preprocessing.batch import stacked
from condinst_deploy.runtime.preprocessing.factory import Prepare, Prepared
from condinst_deploy.support.signals import cancel, received

SECONDS_TO_LOOK = 1.0
"""Between two looks at whether a thread failed, while a result is waited for."""

SECONDS_TO_END = 5.0
"""That a network has to stop when its stream is closed because the process was asked to stop."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What became of one image: its detections, or the error that kept it from having any."""

    name: str  # path, or place in the list
    image: RGBArray | None  # (H, W, 3) uint8, upright
    detections: InstanceDetections | None
    error: ImageError | None = None


@dataclass(frozen=True)
class Stages:
    """What is done with images, and how many are under way."""

    prepare: Prepare
    infer: Callable[[NetworkInputs], Any]  # may return before it is finished, and leave the outputs where they are
    finish: Callable[[Any, Sequence[ImageGeometry]], list[InstanceDetections]]  # the same backend's
    batch_size: int
    window: int  # images among which equal padded shapes are put together
    static_batch: int | None = None  # images that the network always takes; None: any number
    workers: int = 1
    enter_thread: Callable[[], None] | None = None  # what each thread does first; it must not fail

    @property
    def max_in_flight(self) -> int:
        """Images that are held at most: a window whose batches are not all full, a batch that runs, and the next."""
        return self.window + self.batch_size + self.workers


def predictions(stages: Stages, images: Iterable[Any]) -> Generator[Prediction, None, None]:
    """Predictions of images in their order.

    An exception of the iterable is raised after the results of the images before it. However the generator
    ends, its threads finish what they are at and are gone when it has.
    """
    pipeline = _Pipeline(stages)
    try:
        yield from pipeline.run(images)
    finally:
        pipeline.close()


def predicted(stages: Stages, source: Any) -> Prediction:
    """The same for one image, in the thread that asks: there is nothing to overlap with."""
    name = source_name(source, 0)
    try:
        prepared = _prepared(stages.prepare, source, name)
    except ImageError as e:
        return Prediction(name, None, None, e)
    outputs = stages.infer(stacked([prepared.inputs], stages.static_batch))
    (detections,) = stages.finish(outputs, [prepared.geometry])
    return Prediction(name, prepared.image, detections)


def _prepared(prepare: Prepare, source: Any, name: str) -> Prepared:
    """An error of one image, expected or not, is no reason to lose the others."""
    try:
        return prepare(source)
    except ImageError:
        raise
    except Exception as e:
        raise ImageError(f"{name} cannot be prepared for the network ({type(e).__name__}: {e})") from e


@dataclass(frozen=True, eq=False)
class _Image:
    """An image that is ready for the network, and where its result is waited for."""

    name: str
    prepared: Prepared
    result: Future[Prediction]


class _Pipeline:
    """The threads of one stream."""

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._workers = self._threads(stages.workers, "prepare")
        self._batcher, self._network, self._finisher = (self._threads(1, n) for n in ("batch", "network", "finish"))
        self._running: Future[None] | None = None  # the last batch that was given to the network
        self._network_thread: int | None = None
        self._failure: BaseException | None = None  # of a thread, beside those that images were told
        self._groups: dict[tuple[int, int], list[_Image]] = {}  # by padded shape; the batcher's thread has it alone

    def run(self, images: Iterable[Any]) -> Iterator[Prediction]:
        """Take images and hand out results: each step takes one at least, and more until a result is there."""
        sources, pending = enumerate(images), deque[Future[Prediction]]()
        failed: Exception | None = None
        more = True
        while more or pending:
            taken = 0
            while more and len(pending) < self._stages.max_in_flight and not (taken and pending[0].done()):
                try:
                    position, source = next(sources)
                except StopIteration:
                    more = False
                except Exception as e:
                    more, failed = False, e
                else:
                    pending.append(self._take(source, position))
                    taken += 1
                if not more or (position + 1) % self._stages.window == 0:
                    self._submit(self._batcher, self._flush)
            if pending:
                yield self._result(pending.popleft())
        if failed is not None:
            raise failed

    def _result(self, pending: Future[Prediction]) -> Prediction:
        """Wait for a result, or for the failure of a thread that would have made it.

        A thread that has no memory may not even be able to say so to those who wait.
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
        """Have work done whose own failure, or its thread's, is noticed by `_result`."""
        future = executor.submit(work, *arguments)
        future.add_done_callback(self._note_failure)
        return future

    def _note_failure(self, done: Future[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            self._failure = done.exception()

    def close(self) -> None:
        """Drop what waits, let the threads finish what they are at, and end them."""
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
        prepared = self._workers.submit(_prepared, self._stages.prepare, source, name)
        self._submit(self._batcher, self._place, name, prepared, result)
        return result

    def _place(self, name: str, prepared: Future[Prepared], result: Future[Prediction]) -> None:
        """In the batcher's thread: the next image, to those of its padded shape."""
        try:
            image = _Image(name, prepared.result(), result)
        except ImageError as e:
            result.set_result(Prediction(name, None, None, e))
        except BaseException as e:
            result.set_exception(e)
        else:
            group = self._groups.setdefault(image.prepared.geometry.padded, [])
            group.append(image)
            if len(group) == self._stages.batch_size:
                self._batch(self._groups.pop(image.prepared.geometry.padded))

    def _flush(self) -> None:
        """In the batcher's thread: a window is over, and with it the batches that are not full."""
        while self._groups:
            self._batch(self._groups.pop(next(iter(self._groups))))

    def _batch(self, images: list[_Image]) -> None:
        with _told(images):
            inputs = stacked([image.prepared.inputs for image in images], self._stages.static_batch)
            self._running = self._submit(self._network, self._infer, images, inputs)

    def _infer(self, images: list[_Image], inputs: NetworkInputs) -> None:
        self._network_thread = get_ident()
        with _told(images):
            outputs = self._stages.infer(inputs)
            self._submit(self._finisher, self._finish, images, outputs)

    def _finish(self, images: list[_Image], outputs: Any) -> None:
        with _told(images):
            found = self._stages.finish(outputs, [image.prepared.geometry for image in images])
            for image, detections in zip(images, found, strict=True):
                image.result.set_result(Prediction(image.name, image.prepared.image, detections))


@contextmanager
def _told(images: Sequence[_Image]) -> Iterator[None]:
    """Whatever ends the block early is told to those who wait for the images."""
    try:
        yield
    except BaseException as e:
        for image in images:
            if not image.result.done():
                image.result.set_exception(e)
