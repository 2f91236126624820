"""The process that holds one model and times it: a request a line on standard input, an answer a line.

Models are timed in processes of their own because those of one process disturb each other: after a run the threads
of ONNX Runtime and of PyTorch wait for the next one by spinning, on the same cores; peak memory would be that of both;
and neither library can be given another number of threads once it has begun. A process that waits for its next
request costs nothing.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from condinst_deploy.support.json_text import json_text

if TYPE_CHECKING:
    from condinst_deploy.benchmarking.images import Batches, Source
    from condinst_deploy.runtime.backend import Backend

STAGES = ("decode", "pre", "network", "post")
"""Files decoded; resized and padded; the network, until its outputs are finished; masks at original size, to RLE."""


class Worker:
    """One loaded model, its images, and the requests that it answers, each a method."""

    def __init__(self) -> None:
        self._backend: Backend
        self._batches: Batches
        self._memory: dict[str, float | None] = {}
        self._device_in_use: float | None = None

    def load(self, model: str, device: str, images: dict[str, Any], batches: list[int]) -> dict[str, Any]:
        """Load the model and look at the images; what it is, and what it runs on."""
        # imported here: their libraries count the cores of the process when they are imported
        from condinst_deploy.benchmarking.images import Batches
        from condinst_deploy.benchmarking.machine import machine
        from condinst_deploy.benchmarking.memory import resident_mb
        from condinst_deploy.errors import ImageError
        from condinst_deploy.runtime.predictor import Predictor, load_backend
        from condinst_deploy.runtime.torch_backend import torch_device

        sources = _sources(images)
        self._memory["before_loading_mb"] = resident_mb()
        with self._device_memory_watched(str(torch_device(device))):
            started = time.perf_counter()
            backend = self._backend = load_backend(model, device)
            seconds = time.perf_counter() - started
        self._memory["loaded_mb"] = resident_mb()
        for batch in batches:
            Predictor.of(backend, batch)  # refuses what the model cannot take, before anything is timed
        usable, padded, skipped = [], [], []
        for source in sources:
            try:
                padded.append(backend.geometry(_decoded(source)).padded)
                usable.append(source)
            except ImageError as e:
                skipped.append(str(e))
        if not usable:
            raise ImageError(f"none of the {len(sources)} images can be read; the first: {skipped[0]}")
        self._batches = Batches(usable, padded)
        manifest = backend.manifest
        return {
            "backend": backend.name,
            "device": backend.device,
            "note": backend.note,
            "precision": manifest.precision,
            "most_detections": manifest.selection.max_detections,
            "load_seconds": round(seconds, 2),
            "skipped": skipped,
            "first_of_shapes": self._batches.first_of_shapes,
            "machine": machine(device=backend.device),
        }

    def call(self, batch: int, number: int, untimed: int = 0) -> dict[str, float]:
        """Time the stages of one batch, in seconds, after `untimed` calls of the same kind."""
        sources = self._batches.batch(number, batch)
        with self._device_memory_watched(self._backend.device):
            for _ in range(untimed):
                timed_call(self._backend, sources)
            return timed_call(self._backend, sources)

    def serve(self, batch: int, threads: int, numbers: list[int]) -> dict[str, Any]:
        """Time calls of one predictor, shared by so many threads; each call ends with the masks' RLEs.

        Thread k of n makes the batches k, k + n, ... of `numbers`.
        """
        from condinst_deploy.runtime.predictor import Predictor

        predictor = Predictor.of(self._backend, batch)

        def client(first: int) -> list[float]:
            seconds = []
            for number in numbers[first::threads]:
                started = time.perf_counter()
                for detections in predictor(self._batches.batch(number, batch)):
                    detections.masks.rle()
                seconds.append(time.perf_counter() - started)
            return seconds

        with self._device_memory_watched(self._backend.device), ThreadPoolExecutor(threads) as pool:
            started = time.perf_counter()
            latencies = [seconds for one in pool.map(client, range(threads)) for seconds in one]
            return {"seconds": time.perf_counter() - started, "latencies": latencies}

    def memory(self) -> dict[str, float | None]:
        """What the process, and the GPU for this model, have held since the start."""
        from condinst_deploy.benchmarking.memory import peak_mb, peak_of_torch_mb

        return {
            **self._memory,
            "peak_mb": peak_mb(),
            "device_peak_of_torch_mb": peak_of_torch_mb(self._backend.device),
            "device_in_use_mb": self._device_in_use,
        }

    @contextmanager
    def _device_memory_watched(self, device: str) -> Iterator[None]:
        """Count what comes into use on the GPU meanwhile as this model's: another one's process waits then."""
        from condinst_deploy.benchmarking.memory import free_device_mb

        before = free_device_mb(device)
        yield
        after = free_device_mb(device)
        if before is not None and after is not None:
            self._device_in_use = (self._device_in_use or 0.0) + before - after


def timed_call(backend: "Backend", sources: "list[Source]") -> dict[str, float]:
    """Seconds of every stage of one batch, and how many instances were found."""
    marks = [time.perf_counter()]
    images = [_decoded(source) for source in sources]
    marks.append(time.perf_counter())
    inputs, geometries = backend.preprocess(images)
    marks.append(time.perf_counter())
    outputs = backend.infer(inputs)
    backend.synchronize()
    marks.append(time.perf_counter())
    found = backend.postprocess(outputs, geometries)
    for detections in found:
        detections.masks.rle()
    marks.append(time.perf_counter())
    spent = {stage: end - start for stage, start, end in zip(STAGES, marks, marks[1:], strict=False)}
    if not isinstance(sources[0], Path):
        del spent["decode"]  # there was nothing to decode
    return spent | {"detections": float(sum(map(len, found)))}


def _sources(images: dict[str, Any]) -> "list[Source]":
    from condinst_deploy.benchmarking.images import generated_images

    if "paths" in images:
        return [Path(path) for path in images["paths"]]
    height, width = images["size"]
    return [*generated_images((height, width), images["seed"])]


def _decoded(source: "Source") -> Any:
    from condinst_deploy.benchmarking.images import decoded

    return decoded(source)


def main() -> None:
    """Answer until standard input ends. Argument: the cores that this process may use, as 0,1,2."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the one that asks decides
    answers = _answers()
    os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})
    worker = Worker()
    for line in sys.stdin:
        answers.write(json_text(_answer(worker, json.loads(line)), "an answer") + "\n")
        answers.flush()


def _answers() -> TextIO:
    """Standard output for answers alone: what libraries print goes to standard error from now on."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def _answer(worker: Worker, request: dict[str, Any]) -> dict[str, Any]:
    from condinst_deploy.errors import CondInstError

    verb = request.pop("verb")
    try:
        answer: dict[str, Any] = getattr(worker, verb)(**request)
    except CondInstError as e:
        return {"error": type(e).__name__, "message": str(e)}
    except Exception as e:  # what the libraries raise when memory runs out has no common base
        if verb == "load":
            raise
        reason = (str(e).splitlines() or [""])[0][:200]
        failure = f"failed ({type(e).__name__}: {reason})"
        with_batch = f"a batch of {request.get('batch')} {failure}; try a smaller --batch"
        message = with_batch if "batch" in request else f"the request {verb} {failure}"
        return {"error": "BackendError", "message": message}
    return answer


if __name__ == "__main__":
    main()
