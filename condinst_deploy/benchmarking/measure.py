"""Models timed on the same images, one alone or two in turn."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from condinst_deploy.benchmarking.benchmark_settings import Settings, cores_for
from condinst_deploy.benchmarking.process import ModelProcess
from condinst_deploy.benchmarking.statistics import Distribution, Ratio
from condinst_deploy.benchmarking.worker import STAGES
from condinst_deploy.contract.artifacts import precision_for

END_TO_END = "end to end"

SHORT_CALL = 0.1
"""Seconds. A shorter call is preceded by an untimed one, since the other model's turn has filled the caches."""

WARM = 2
"""Untimed calls that a padded shape has: an engine's first run of it sets up, the second one captures."""

OnCall = Callable[[str, int], None]
"""Called with the name of the measurement, and the number of calls since the last report."""


@dataclass(frozen=True)
class StageMetrics:
    """One model at one batch size."""

    batch: int
    calls: int
    detections: float  # found in an image, on average
    images_per_second: float  # one call after the other
    stages: dict[str, Distribution]  # of a whole batch; end to end among them


@dataclass(frozen=True)
class ServingMetrics:
    """One model at one batch size, asked by several threads."""

    batch: int
    concurrency: int
    calls: int
    images_per_second: float
    latency: Distribution  # of a call


@dataclass(frozen=True)
class ModelMetrics:
    """All that was measured of one model."""

    model: str
    loaded: dict[str, Any]  # backend, device, machine, ...
    stages: tuple[StageMetrics, ...]
    serving: tuple[ServingMetrics, ...]
    memory: dict[str, float | None]


@dataclass(frozen=True)
class Ratios:
    """The first model's times over the second's, at one batch size."""

    batch: int
    pairs: int
    stages: dict[str, Ratio]


@dataclass(frozen=True)
class Benchmark:
    """Everything that a run measured."""

    settings: Settings
    images: dict[str, Any]
    models: tuple[ModelMetrics, ...]
    ratios: tuple[Ratios, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass
class _Contestant:
    process: ModelProcess
    loaded: dict[str, Any]
    stages: list[StageMetrics] = field(default_factory=list)
    serving: list[ServingMetrics] = field(default_factory=list)


Calls = list[dict[str, float]]


def calls_of(models: int, settings: Settings) -> int:
    """Return the number of timed calls, which `measure` reports; the number of untimed ones depends on the images."""
    return models * len(settings.batches) * (settings.repeat + sum(_served_calls(settings)))


def measure(models: Sequence[Path], paths: Sequence[Path], settings: Settings, on_call: OnCall) -> Benchmark:
    """Time one model, or two in turn.

    Two are never at work at once: a process that waits for its next request sleeps. Each image is given to one
    model and at once to the other, the order changing from image to image, so that whatever slows the machine for
    a while slows both times of a pair.

    Args:
        models: one or two model files.
        paths: images; none: generated ones.
        settings: what to measure, how often.
        on_call: called to report progress.

    Raises:
        CondInstError: a model or none of the images can be used; nothing was timed then.
    """
    cores = settings.cores or cores_for(None)
    images = _images(paths, settings)
    with ExitStack() as stack:
        processes = [stack.enter_context(ModelProcess(model, cores)) for model in models]
        contestants = [_Contestant(process, _load(process, images, settings)) for process in processes]
        ratios = []
        for batch in settings.batches:
            taken = _staged(contestants, batch, settings, on_call)
            for contestant, calls in zip(contestants, taken, strict=True):
                contestant.stages.append(_stage_metrics(batch, calls))
            if len(taken) == 2:
                ratios.append(_ratios(batch, taken[0], taken[1]))
        for contestant in contestants:
            contestant.serving += _served(contestant, settings, on_call)
        metrics = [
            ModelMetrics(str(c.process.model), c.loaded, tuple(c.stages), tuple(c.serving), c.process.ask("memory"))
            for c in contestants
        ]
    return Benchmark(settings, images, tuple(metrics), tuple(ratios))


def _images(paths: Sequence[Path], settings: Settings) -> dict[str, Any]:
    if paths:
        return {"paths": [str(path) for path in paths]}
    return {"size": list(settings.size), "seed": settings.seed}


def _load(process: ModelProcess, images: dict[str, Any], settings: Settings) -> dict[str, Any]:
    return process.ask(
        "load",
        model=str(process.model),
        device=settings.device,
        images=images,
        batches=list(settings.batches),
        pixels=settings.pixels,
        precision=precision_for(process.model, settings.precision),
        canvases=settings.canvases,
    )


def _staged(contestants: Sequence[_Contestant], batch: int, settings: Settings, on_call: OnCall) -> list[Calls]:
    """Calls of every contestant at one batch size, number i of one right beside number i of the other."""
    taken: list[Calls] = [[] for _ in contestants]
    latest = [0.0] * len(contestants)
    warm_up = _warm_up(contestants, settings)
    for turn, number in enumerate([*warm_up, *range(settings.repeat)], start=-len(warm_up)):
        order = range(len(contestants)) if turn % 2 == 0 else reversed(range(len(contestants)))
        for i in order:
            untimed = 0
            if len(contestants) > 1:
                time.sleep(settings.settle)
                untimed = int(latest[i] < SHORT_CALL)
            call = contestants[i].process.ask("call", batch=batch, number=number, untimed=untimed)
            latest[i] = _whole(call)
            if turn >= 0:
                taken[i].append(call)
            on_call(f"stages, batch {batch}", int(turn >= 0))
    return taken


def _warm_up(contestants: Sequence[_Contestant], settings: Settings) -> list[int]:
    """Numbers of the untimed batches: those of every padded shape that will be timed, going round."""
    firsts = sorted({number for c in contestants for number in _timed_shapes(c, settings)})
    count = max(settings.warmup, min(settings.warmup, WARM) * len(firsts))
    return [firsts[i % len(firsts)] for i in range(count)]


def _timed_shapes(contestant: _Contestant, settings: Settings) -> list[int]:
    firsts: list[int] = contestant.loaded["first_of_shapes"]
    return [number for number in firsts if number < max(settings.repeat, *_served_calls(settings))]


def _served(contestant: _Contestant, settings: Settings, on_call: OnCall) -> Iterator[ServingMetrics]:
    ask = contestant.process.ask
    # enough calls of each shape in a row that all threads run it at the same time
    each = min(settings.warmup, WARM)
    for batch in settings.batches:
        for threads, calls in zip(settings.concurrency, _served_calls(settings), strict=True):
            what = f"throughput, batch {batch}, concurrency {threads}"
            on_call(what, 0)
            warm_up = [number for number in _timed_shapes(contestant, settings) for _ in range(each * threads)]
            if warm_up:
                ask("serve", batch=batch, threads=threads, numbers=warm_up)
            answer = ask("serve", batch=batch, threads=threads, numbers=list(range(calls)))
            on_call(what, calls)
            rate = round(calls * batch / answer["seconds"], 3)
            yield ServingMetrics(batch, threads, calls, rate, Distribution.of(answer["latencies"]))


def _served_calls(settings: Settings) -> list[int]:
    """Return the timed calls for each number of threads: a multiple of it, so that all threads end together."""
    return [-(-settings.repeat // threads) * threads for threads in settings.concurrency]


def _stage_metrics(batch: int, calls: Calls) -> StageMetrics:
    whole = [_whole(call) for call in calls]
    stages = {stage: Distribution.of([call[stage] for call in calls]) for stage in STAGES if stage in calls[0]}
    return StageMetrics(
        batch=batch,
        calls=len(calls),
        detections=round(sum(call["detections"] for call in calls) / (batch * len(calls)), 2),
        images_per_second=round(batch * len(calls) / sum(whole), 3),
        stages=stages | {END_TO_END: Distribution.of(whole)},
    )


def _ratios(batch: int, calls: Calls, others: Calls) -> Ratios:
    ratios = {
        stage: Ratio.of([call[stage] for call in calls], [other[stage] for other in others])
        for stage in STAGES
        if stage in calls[0]
    }
    whole = Ratio.of([_whole(call) for call in calls], [_whole(other) for other in others])
    return Ratios(batch, len(calls), ratios | {END_TO_END: whole})


def _whole(call: dict[str, float]) -> float:
    return sum(seconds for stage, seconds in call.items() if stage in STAGES)
