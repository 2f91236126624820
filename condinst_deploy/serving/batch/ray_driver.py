"""The driver that gives shards to workers on Ray.

Ray places the workers, watches them and moves shards and reports. A worker is an actor that holds one model. All
workers that were asked for are requested at once, and each takes part as soon as Ray has room for it: an autoscaling
cluster grows with the requests. If a worker dies, its shard goes to another one, and a new worker is requested.
So no shard waits for a machine that does not come back. A worker whose model fails on a whole shard is replaced, too:
its GPU may be broken. Where workers die with shard after shard, the run ends with an error.
"""

import os
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from condinst_deploy.errors import BackendError, CondInstError, ConfigError
from condinst_deploy.serving.batch.batch_driver import Plan
from condinst_deploy.serving.batch.reporting import Event, OnEvent
from condinst_deploy.serving.batch.shard_worker import Job, OnImage, ShardReport, ShardWorker
from condinst_deploy.serving.batch.shards import Shard
from condinst_deploy.serving.ray_session import (
    RayOptions,
    is_connected,
    ray_session,
    resources_per_worker,
    worker_count,
)
from condinst_deploy.shown_text import first_line
from condinst_deploy.support.launch import reason_of

ATTEMPTS = 4
"""Workers that a shard may cost before it is left out."""

LEFT_OUT = 3
"""Shards that may be left out one after the other, with none finished in between."""

LOADING_ATTEMPTS = 3
"""Workers that may die one after the other while they load the model; as many as were requested, if that is more."""

WAIT_SECONDS = 1.0

NOTICE_SECONDS = 30.0
"""Between two messages while no worker is ready."""


@dataclass(frozen=True)
class Failure:
    """An error of the toolkit inside a worker."""

    error: type[CondInstError]
    message: str


class ShardActor:
    """A worker in a process of Ray's. Errors of the toolkit are returned, so that their message reaches the user."""

    count_seconds = 5.0  # between two numbers of images

    def __init__(self, job: Job, cores: tuple[int, ...] | None) -> None:
        self._job, self._cores = job, cores
        self._worker: ShardWorker | None = None

    def load(self) -> tuple[str, str] | Failure:
        """Load the model; returns the worker's name, and how the model runs."""
        if self._cores is not None:
            os.sched_setaffinity(0, self._cores)  # the threads of the model are counted by it
        try:
            self._worker = ShardWorker(self._job)
        except CondInstError as e:
            return Failure(type(e), str(e))
        return self._worker.name, self._worker.note

    def run(self, shard: Shard) -> Generator[int | ShardReport | Failure, None, None]:
        """Write the part of a shard; yields from time to time how many of its images are done, and then the report."""
        assert self._worker is not None
        steps, told_at = self._worker.steps(shard), time.monotonic()
        try:
            while True:
                done = next(steps)
                if time.monotonic() - told_at >= self.count_seconds:
                    told_at = time.monotonic()
                    yield done
        except StopIteration as end:
            yield end.value
        except CondInstError as e:
            yield Failure(type(e), str(e))
        except MemoryError as e:
            yield Failure(BackendError, reason_of(e).removeprefix("error: "))


def run_on_ray(
    plan: Plan,
    ray_options: RayOptions,
    on_event: OnEvent,
    on_image: OnImage = lambda done: None,
    notice_seconds: float = NOTICE_SECONDS,
) -> None:
    """Run all pending shards on Ray.

    Args:
        plan: of the run.
        ray_options: where, and how many workers.
        on_event: called with what happens.
        on_image: called from time to time with the number of images that are done of the shards under way.
        notice_seconds: between two messages while no worker is ready.

    Raises:
        BackendError: Ray or the cluster is not there.
        CondInstError: the model, the input or the output cannot be used.
    """
    shards = plan.pending()
    first = next(shards, None)
    if first is None:
        return
    here = ray_options.address is None and not is_connected()
    # Ray prints messages about workers to standard output, which belongs to the results
    with redirect_stdout(sys.stderr), ray_session(ray_options) as ray:
        resources = resources_per_worker(ray, ray_options, plan.job.options.detection.device)
        count = min(worker_count(ray, ray_options, resources), plan.shards - len(plan.finished))
        pinned = here and resources["num_gpus"] == 0
        if here and resources["num_gpus"] > ray.cluster_resources().get("GPU", 0):
            raise ConfigError(f"--gpus-per-worker {resources['num_gpus']:g}: Ray sees fewer GPUs on this machine")
        core_sets = _core_sets(count, resources["num_cpus"]) if pinned else None
        pool = _Pool(ray, plan.job, resources, on_event, on_image, core_sets, notice_seconds)
        try:
            pool.request(count)
            pool.run(_Queue(deque([_Try(first)]), shards))
        finally:
            pool.close()


@dataclass
class _Try:
    """A shard, how many workers died of it or with it, and how many of its images the present one has done."""

    shard: Shard
    lost: int = 0
    images: int = 0


@dataclass
class _Queue:
    """Shards that are to be done again, and then those that were not begun."""

    again: deque[_Try]
    fresh: Iterator[Shard]

    def next(self) -> _Try | None:
        """The next shard; None if there is none."""
        if self.again:
            return self.again.popleft()
        shard = next(self.fresh, None)
        return None if shard is None else _Try(shard)


@dataclass(eq=False)
class _Worker:
    actor: Any
    cores: tuple[int, ...] | None
    name: str = "new"


@dataclass(eq=False)
class _Pool:
    """Workers that load, wait or work. At most one shard is given to each, so memory does not grow with the input."""

    ray: Any
    job: Job
    resources: dict[str, float]
    on_event: OnEvent
    on_image: OnImage
    core_sets: list[tuple[int, ...]] | None  # that no worker has; None: workers are not bound to cores
    notice_seconds: float
    loading: dict[Any, _Worker] = field(default_factory=dict)  # by reference to the result of `load`
    idle: list[_Worker] = field(default_factory=list)
    busy: dict[Any, tuple[_Worker, _Try]] = field(default_factory=dict)  # by generator of what `run` yields
    requested: int = 0
    died_loading: int = 0  # one after the other
    left_out: int = 0  # shards, one after the other
    noticed_at: float = field(default_factory=time.monotonic)  # last time a worker was ready, or a notice given

    def request(self, count: int) -> None:
        """Ask Ray for more workers."""
        self.requested = max(self.requested, count)
        actor_class = self.ray.remote(ShardActor).options(max_restarts=0, max_task_retries=0, **self.resources)
        for _ in range(count):
            cores = None if self.core_sets is None else self.core_sets.pop()
            worker = _Worker(actor_class.remote(self.job, cores), cores)
            self.loading[worker.actor.load.remote()] = worker

    def run(self, queue: _Queue) -> None:
        """Give out all shards, and wait for their reports."""
        while True:
            while self.idle and (attempt := queue.next()) is not None:
                self._give(self.idle.pop(), attempt)
            if self.idle and not self.busy:
                return  # an idle worker found no shard, and none can come back
            ready, _ = self.ray.wait([*self.busy, *self.loading], num_returns=1, timeout=WAIT_SECONDS)
            for reference in ready:
                if reference in self.busy:
                    self._take(reference, queue)
                else:
                    self._admit(reference)
            self._notice()

    def close(self) -> None:
        """End all workers."""
        workers = [*self.loading.values(), *self.idle, *(worker for worker, _ in self.busy.values())]
        for worker in workers:
            self.ray.kill(worker.actor)

    def _give(self, worker: _Worker, attempt: _Try) -> None:
        self.on_event(Event("start", worker.name, attempt.shard.index))
        # a method that is a generator: Ray gives a generator of references, which `wait` takes like a reference
        self.busy[worker.actor.run.remote(attempt.shard)] = worker, attempt

    def _take(self, yielded: Any, queue: _Queue) -> None:
        """Take the next thing that a worker yields: a number of images, or the report that ends a shard."""
        worker, attempt = self.busy[yielded]
        try:
            result = _checked(self.ray.get(next(yielded)))
        except self.ray.exceptions.RayTaskError:
            raise  # a defect
        except (self.ray.exceptions.RayError, BackendError) as e:
            del self.busy[yielded]
            self._lose(worker, attempt, queue, e)
        else:
            if isinstance(result, int):
                attempt.images = result
            else:
                del self.busy[yielded]
                self._finish(worker, result)
        self.on_image(sum(attempt.images for _, attempt in self.busy.values()))

    def _finish(self, worker: _Worker, report: ShardReport) -> None:
        self.idle.append(worker)
        self.left_out = self.died_loading = 0
        self.on_event(Event("done", worker.name, report.index, report=report))

    def _notice(self) -> None:
        """Say from time to time that no worker is ready: a cluster may never have room for one."""
        now = time.monotonic()
        if self.busy or self.idle:
            self.noticed_at = now
        elif now - self.noticed_at >= self.notice_seconds:
            self.noticed_at, there = now, self.ray.cluster_resources()
            self.on_event(
                Event(
                    "waiting",
                    "new",
                    reason="no worker is ready yet; each needs"
                    f" {self.resources['num_cpus']:g} CPUs and {self.resources['num_gpus']:g} GPUs, and the cluster has"
                    f" {there.get('CPU', 0):g} and {there.get('GPU', 0):g}",
                )
            )

    def _replace(self, worker: _Worker) -> None:
        self.ray.kill(worker.actor)  # it may live: out of reach, or with a model that fails
        if self.core_sets is not None and worker.cores is not None:
            self.core_sets.append(worker.cores)
        self.request(1)

    def _lose(self, worker: _Worker, attempt: _Try, queue: _Queue, error: Exception) -> None:
        attempt.lost, attempt.images = attempt.lost + 1, 0
        self.on_event(Event("lost", worker.name, attempt.shard.index, first_line(error)))
        self._replace(worker)
        if attempt.lost < ATTEMPTS:
            queue.again.append(attempt)
            return
        reason = f"{attempt.lost} workers died or failed while they had it; the last one: {first_line(error)}"
        self.on_event(Event("failed", worker.name, attempt.shard.index, reason))
        self.left_out += 1
        if self.left_out >= LEFT_OUT:
            raise CondInstError(
                f"{self.left_out} shards one after the other cost {ATTEMPTS} workers each, the last one because:"
                f" {first_line(error)}. See that the model works (condinst-predict), and that machines have enough"
                " memory"
            ) from error

    def _admit(self, reference: Any) -> None:
        worker = self.loading.pop(reference)
        try:
            worker.name, note = _checked(self.ray.get(reference))
        except self.ray.exceptions.RayTaskError as e:
            raise CondInstError(
                f"a worker cannot load the model: {first_line(e.cause or e)}. See that every machine has this package"
            ) from e
        except self.ray.exceptions.RayError as e:
            self.died_loading += 1
            self.on_event(Event("lost", worker.name, reason=first_line(e)))
            if self.died_loading >= max(LOADING_ATTEMPTS, self.requested):
                raise CondInstError(
                    f"{self.died_loading} workers died while they loaded the model; the last one: {first_line(e)}. See"
                    " that every machine has this package, the model and enough memory"
                ) from e
            self._replace(worker)
            return
        self.died_loading = 0
        self.idle.append(worker)
        self.on_event(Event("ready", worker.name, reason=note))


def _core_sets(count: int, cpus: float) -> list[tuple[int, ...]]:
    """Cores of this machine for each worker, taken in turn: networks that share cores slow each other down."""
    cores, width = sorted(os.sched_getaffinity(0)), max(1, int(cpus))
    return [tuple({cores[(worker * width + i) % len(cores)] for i in range(width)}) for worker in range(count)]


def _checked(result: Any) -> Any:
    if isinstance(result, Failure):
        raise result.error(result.message)
    return result
