"""Observers of the stages of an inference: the seam for benchmarks, metrics and traces.

`PredictorOptions.observer` takes any function that returns a context manager. The context manager is entered where a
stage starts and left where it ends, in the thread that runs the stage. `StageTimer` is such a function. Others are

    lambda stage, images: torch.profiler.record_function(stage)
    lambda stage, images: tracer.start_as_current_span(stage)  # OpenTelemetry
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from condinst_deploy.errors import ConfigError
from condinst_deploy.shown_text import shown_value

DECODE, RESIZE, BATCH, NETWORK, POSTPROCESS = "decode", "resize", "batch", "network", "postprocess"

STAGES = (DECODE, RESIZE, BATCH, NETWORK, POSTPROCESS)
"""Stages of `Predictor`, in the order of an image. The first two have one image, the others all images of a batch."""

Observer = Callable[[str, Sequence[str]], AbstractContextManager[Any]]
"""(stage, names of its images) -> a context manager for the stage.

Names are those of `Prediction.name`. Stages run in several threads at the same time, so an observer must be
thread-safe. An exception of an observer fails the stage as an exception of the stage itself would.
"""

_UNOBSERVED = nullcontext()


def observed(observer: Observer | None, stage: str, images: Sequence[str]) -> AbstractContextManager[Any]:
    """Return the observer's context manager for a stage, or an empty one if there is no observer.

    Raises:
        ConfigError: the observer returned something else.
    """
    if observer is None:
        return _UNOBSERVED
    context = observer(stage, images)
    if not isinstance(context, AbstractContextManager):
        raise ConfigError(
            f"observer returned {shown_value(context)} for the stage {stage}; expected a context manager"
            " (contextlib.contextmanager makes one of a generator function)"
        )
    return context


@dataclass(frozen=True)
class StageTime:
    """One run of a stage."""

    stage: str
    images: tuple[str, ...]
    start: float  # seconds, of `time.perf_counter`
    end: float
    cpu_seconds: float  # of the thread that ran the stage; threads of libraries are not included

    @property
    def seconds(self) -> float:
        """Wall time of the stage."""
        return self.end - self.start


class StageTimer:
    """An observer that records the time of every stage.

    >>> timer = StageTimer()
    >>> with Predictor("model.onnx", observer=timer) as predictor:
    ...     predictor("street.jpg")
    >>> timer.seconds()
    {'decode': 0.012, 'resize': 0.006, 'batch': 0.0, 'network': 0.41, 'postprocess': 0.004}

    On a GPU a stage ends when its work was given to the GPU. Pass `synchronize` to wait for the work; stages then
    no longer overlap.
    """

    def __init__(self, synchronize: Callable[[], None] | None = None) -> None:
        """`synchronize` is called at the end of each stage, for example `Backend.synchronize`."""
        self._synchronize = synchronize
        self._times: deque[StageTime] = deque()

    @contextmanager
    def __call__(self, stage: str, images: Sequence[str]) -> Iterator[None]:
        """Record a stage, including a stage that fails."""
        start, cpu = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            if self._synchronize is not None:
                self._synchronize()
            end = time.perf_counter()
            self._times.append(StageTime(stage, tuple(images), start, end, time.thread_time() - cpu))

    def take(self) -> list[StageTime]:
        """Return the stages that ended since the last call, in the order of their ends, and forget them."""
        return [self._times.popleft() for _ in range(len(self._times))]

    def seconds(self) -> dict[str, float]:
        """Return the total wall seconds of each recorded stage."""
        totals: dict[str, float] = {}
        for each in list(self._times):
            totals[each.stage] = totals.get(each.stage, 0.0) + each.seconds
        return totals
