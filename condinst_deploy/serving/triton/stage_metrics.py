"""Times of our own stages in the server's Prometheus metrics, and one JSON line for each batch in its log."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import triton_python_backend_utils as pb

from condinst_deploy.runtime.observer import STAGES

SECONDS = "condinst_stage_seconds_total"
IMAGES = "condinst_stage_images_total"


class StageMetrics:
    """An observer of `Predictor`: adds up seconds and images of each stage.

    The counters are `condinst_stage_seconds_total` and `condinst_stage_images_total`, labelled with model and stage.
    """

    def __init__(self, model: str) -> None:
        self._families = [
            pb.MetricFamily(name=name, description=text, kind=pb.MetricFamily.COUNTER)
            for name, text in ((SECONDS, "Wall time of a stage"), (IMAGES, "Images that went through a stage"))
        ]
        self._counters: dict[str, tuple[Any, Any]] = {
            stage: tuple(family.Metric(labels={"model": model, "stage": stage}) for family in self._families)
            for stage in STAGES
        }
        self._times: dict[str, float] = {}
        self._lock = Lock()

    @contextmanager
    def __call__(self, stage: str, images: Sequence[str]) -> Iterator[None]:
        """Time one stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            with self._lock:
                self._times[stage] = self._times.get(stage, 0.0) + seconds
            for counter, value in zip(self._counters[stage], (seconds, len(images)), strict=True):
                counter.increment(value)

    def taken(self) -> dict[str, float]:
        """Milliseconds of each stage since the last call."""
        with self._lock:
            times, self._times = self._times, {}
        return {stage: round(1000 * seconds, 3) for stage, seconds in times.items()}


def log_line(values: dict[str, Any]) -> str:
    """One line of a structured log; it holds sizes and times, and nothing of an image."""
    return json.dumps(values, allow_nan=False, separators=(",", ":"))
