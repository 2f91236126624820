"""The process that holds one model and times it: a request a line on standard input, an answer a line.

Models are timed in separate processes because those of one process disturb each other: after a run the threads
of ONNX Runtime and of PyTorch wait for the next one by spinning, on the same cores; peak memory would be that of both;
and neither library can be given another number of threads once it has begun. A process that waits for its next
request costs nothing.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from condinst_deploy.shown_text import counted
from condinst_deploy.support.json_text import json_text
from condinst_deploy.support.launch import reason_outside_the_code

if TYPE_CHECKING:
    from condinst_deploy.benchmarking.benchmark_images import Batches, Source
    from condinst_deploy.contract.precision import Precision
    from condinst_deploy.runtime.backend import Backend
    from condinst_deploy.runtime.observer import StageTimer
    from condinst_deploy.runtime.pipeline import Stages
    from condinst_deploy.runtime.predictor import Predictor
    from condinst_deploy.runtime.preprocessing.types import GeometryOf, Pixels

STAGES = ("decode", "pre", "network", "post")
"""Decoding of files; resizing, padding and batching; the network, until its outputs are finished; masks and RLEs."""


ENCODE = "encode"


class Worker:
    """One loaded model and its images. Each request is a method."""

    def __init__(self) -> None:
        self._backend: Backend
        self._timer: StageTimer
        self._predictors: dict[int, Predictor] = {}  # by batch size
        self._timed: dict[int, Predictor] = {}  # the same, observed by the timer
        self._batches: Batches
        self._memory: dict[str, float | None] = {}
        self._device_in_use: float | None = None

    def load(
        self,
        model: str,
        device: str,
        images: dict[str, Any],
        batches: list[int],
        pixels: "Pixels" = "exact",
        precision: "Precision | None" = None,
        canvases: Sequence[Sequence[int]] | None = None,
    ) -> dict[str, Any]:
        """Load the model, check which images can be read, and describe the model and the machine."""
        # imported here: their libraries count the cores of the process when they are imported
        from condinst_deploy.benchmarking.machine import machine
        from condinst_deploy.benchmarking.memory import resident_mb
        from condinst_deploy.runtime.canvases import canvases_from_json, geometry_for
        from condinst_deploy.runtime.observer import StageTimer
        from condinst_deploy.runtime.predictor import Predictor, load_backend
        from condinst_deploy.runtime.predictor_options import PredictorOptions
        from condinst_deploy.runtime.preprocessing.types import InputOptions
        from condinst_deploy.runtime.torch_backend import torch_device

        sources = _sources(images)
        self._memory["before_loading_mb"] = resident_mb()
        with self._device_memory_watched(str(torch_device(device))):
            started = time.perf_counter()
            backend = self._backend = load_backend(model, device, precision=precision)
            seconds = time.perf_counter() - started
        self._memory["loaded_mb"] = resident_mb()
        self._timer = StageTimer(backend.synchronize)
        padded_to = canvases_from_json(canvases)
        for batch in batches:  # refuses what the model cannot take, before anything is timed
            options = PredictorOptions(batch_size=batch, inputs=InputOptions(pixels), canvases=padded_to)
            self._predictors[batch] = Predictor(backend, options)
            self._timed[batch] = Predictor(backend, options, observer=self._timer)
        self._batches, skipped = _batches(sources, geometry_for(backend, padded_to))
        return {
            "backend": backend.name,
            "device": backend.device,
            "note": backend.note,
            "precision": backend.manifest.precision,
            "most_detections": backend.manifest.selection.max_detections,
            "load_seconds": round(seconds, 2),
            "skipped": skipped,
            "first_of_shapes": self._batches.first_of_shapes,
            "machine": machine(device=backend.device),
        }

    def call(self, batch: int, number: int, untimed: int = 0) -> dict[str, float]:
        """Time the stages of one batch, in seconds, after `untimed` calls of the same kind."""
        sources, stages = self._batches.batch(number, batch), self._timed[batch].stages
        with self._device_memory_watched(self._backend.device):
            for _ in range(untimed):
                timed_call(stages, self._timer, sources)
            return timed_call(stages, self._timer, sources)

    def serve(self, batch: int, threads: int, numbers: list[int]) -> dict[str, Any]:
        """Time calls of one predictor that `threads` threads share; each call ends with the masks' RLEs.

        Thread k of n makes the batches k, k + n, ... of `numbers`.
        """
        predictor = self._predictors[batch]

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
        """Return the memory that the process, and the GPU for this model, have held since the start."""
        from condinst_deploy.benchmarking.memory import peak_mb, peak_of_torch_mb

        return {
            **self._memory,
            "peak_mb": peak_mb(),
            "device_peak_of_torch_mb": peak_of_torch_mb(self._backend.device),
            "device_in_use_mb": self._device_in_use,
        }

    @contextmanager
    def _device_memory_watched(self, device: str) -> Iterator[None]:
        """Count memory of the GPU that comes into use in the block as this model's; the other model's process waits."""
        from condinst_deploy.benchmarking.memory import free_device_mb

        before = free_device_mb(device)
        yield
        after = free_device_mb(device)
        if before is not None and after is not None:
            self._device_in_use = (self._device_in_use or 0.0) + before - after


def timed_call(stages: "Stages", timer: "StageTimer", sources: "Sequence[Source]") -> dict[str, float]:
    """Return the seconds of every stage of one batch, and the number of instances that were found.

    The stages are those that users run, one after the other. On a GPU each stage waits for its work.
    """
    from condinst_deploy.runtime.observer import BATCH, DECODE, NETWORK, POSTPROCESS, RESIZE
    from condinst_deploy.runtime.pipeline import predicted

    column_of = {DECODE: "decode", RESIZE: "pre", BATCH: "pre", NETWORK: "network", POSTPROCESS: "post", ENCODE: "post"}
    timer.take()
    found = 0
    for prediction in predicted(stages, sources):
        if prediction.error is not None:
            raise prediction.error
        assert prediction.detections is not None
        found += len(prediction.detections)
        with timer(ENCODE, (prediction.name,)):
            prediction.detections.masks.rle()
    spent = dict.fromkeys(STAGES, 0.0)
    for each in timer.take():
        spent[column_of[each.stage]] += each.seconds
    if not isinstance(sources[0], Path):
        spent["pre"] += spent.pop("decode")  # a copy of the array
    return spent | {"detections": float(found)}


def _sources(images: dict[str, Any]) -> "list[Source]":
    from condinst_deploy.benchmarking.benchmark_images import generated_images

    if "paths" in images:
        return [Path(path) for path in images["paths"]]
    height, width = images["size"]
    return [*generated_images((height, width), images["seed"])]


def _batches(sources: "list[Source]", geometry_of: "GeometryOf") -> "tuple[Batches, list[str]]":
    """Return batches of the images that can be read, and the errors of the others.

    Raises:
        ImageError: none can be read.
    """
    from condinst_deploy.benchmarking.benchmark_images import Batches, decoded
    from condinst_deploy.errors import ImageError

    usable, padded, skipped = [], [], []
    for source in sources:
        try:
            padded.append(geometry_of(decoded(source)).padded)
            usable.append(source)
        except ImageError as e:
            skipped.append(str(e))
    if not usable:
        raise ImageError(f"none of {counted(len(sources), 'image')} can be read; the first: {skipped[0]}")
    return Batches(usable, padded), skipped


def main() -> None:
    """Answer for `Worker`."""
    answer_requests(Worker)


def answer_requests(make: Callable[[], object]) -> None:
    """Answer until standard input ends. The command's argument: the cores that this process may use, as 0,1,2.

    Args:
        make: returns the object whose methods are the requests; called on these cores.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the one that asks decides
    with _answers() as answers:
        os.sched_setaffinity(0, {int(core) for core in sys.argv[1].split(",")})
        worker = make()
        for line in sys.stdin:
            answers.write(json_text(answered(worker, json.loads(line)), "an answer") + "\n")
            answers.flush()


def _answers() -> TextIO:
    """Standard output for answers alone: what libraries print goes to standard error from now on."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


def answered(worker: object, request: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a request, or the error that it raised; errors of loading the model's libraries end it."""
    from condinst_deploy.errors import CondInstError

    verb = request.pop("verb")
    try:
        answer: dict[str, Any] = getattr(worker, verb)(**request)
    except CondInstError as e:
        return {"error": type(e).__name__, "message": str(e)}
    except Exception as e:  # what the libraries raise when memory runs out has no common base
        outside = reason_outside_the_code(e)
        if outside is not None:
            return {"error": "BackendError", "message": outside}
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
