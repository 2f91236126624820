"""The driver that gives shards to workers on Ray.

Ray places the workers, watches them and moves shards and reports. A worker is an actor that holds one model. All
workers that were asked for are requested at once, and each takes part as soon as Ray has room for it: an autoscaling
cluster grows with the requests. If a worker dies, its shard goes to another one, and a new worker is requested.
So no shard waits for a machine that does not come back.
"""

import os
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import Any

from condinst_deploy.errors import CondInstError
from condinst_deploy.serving.batch.driver import Plan
from condinst_deploy.serving.batch.reporting import Event, OnEvent
from condinst_deploy.serving.batch.shard_worker import Job, ShardReport, ShardWorker
from condinst_deploy.serving.batch.shards import Shard
from condinst_deploy.serving.ray_session import RayOptions, ray_session, resources_per_worker, worker_count

ATTEMPTS = 4
"""Workers that a shard may cost before it is left out."""

LOADING_ATTEMPTS = 3
"""Workers that may die one after the other while they load the model."""

WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class Failure:
    """An error of the toolkit inside a worker."""

    error: type[CondInstError]
    message: str


class ShardActor:
    """A worker in a process of Ray's. Errors of the toolkit are returned, so that their message reaches the user."""

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

    def run(self, shard: Shard) -> ShardReport | Failure:
        """Write the part of a shard."""
        assert self._worker is not None
        try:
            return self._worker.run(shard)
        except CondInstError as e:
            return Failure(type(e), str(e))


def run_on_ray(plan: Plan, ray_options: RayOptions, on_event: OnEvent) -> None:
    """Run all pending shards on Ray.

    Raises:
        BackendError: Ray or the cluster is not there.
        CondInstError: the model, the input or the output cannot be used.
    """
    shards = plan.pending()
    first = next(shards, None)
    if first is None:
        return
    # Ray prints messages about workers to standard output, which belongs to the results
    with redirect_stdout(sys.stderr), ray_session(ray_options) as ray:
        resources = resources_per_worker(ray, ray_options, plan.job.options.detection.device)
        count = min(worker_count(ray, ray_options, resources), plan.shards - len(plan.finished))
        pinned = ray_options.address is None and resources["num_gpus"] == 0
        pool = _Pool(ray, plan.job, resources, on_event, _core_sets(count, resources["num_cpus"]) if pinned else None)
        try:
            pool.request(count)
            pool.run(_Queue(deque([_Try(first)]), shards))
        finally:
            pool.close()


@dataclass
class _Try:
    """A shard, and how many workers died of it or with it."""

    shard: Shard
    lost: int = 0


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
    core_sets: list[tuple[int, ...]] | None  # that no worker has; None: workers are not bound to cores
    loading: dict[Any, _Worker] = field(default_factory=dict)  # by reference to the result of `load`
    idle: list[_Worker] = field(default_factory=list)
    busy: dict[Any, tuple[_Worker, _Try]] = field(default_factory=dict)  # by reference to the report
    died_loading: int = 0

    def request(self, count: int) -> None:
        """Ask Ray for more workers."""
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
                    self._finish(reference, queue)
                else:
                    self._admit(reference)

    def close(self) -> None:
        """End all workers."""
        workers = [*self.loading.values(), *self.idle, *(worker for worker, _ in self.busy.values())]
        for worker in workers:
            self.ray.kill(worker.actor)

    def _give(self, worker: _Worker, attempt: _Try) -> None:
        self.on_event(Event("start", worker.name, attempt.shard.index))
        self.busy[worker.actor.run.remote(attempt.shard)] = worker, attempt

    def _finish(self, reference: Any, queue: _Queue) -> None:
        worker, attempt = self.busy.pop(reference)
        try:
            report = _checked(self.ray.get(reference))
        except self.ray.exceptions.RayActorError as e:
            self._lose(worker, attempt, queue, e)
            return
        self.idle.append(worker)
        self.on_event(Event("done", worker.name, report.index, report=report))

    def _replace(self, worker: _Worker) -> None:
        if self.core_sets is not None and worker.cores is not None:
            self.core_sets.append(worker.cores)
        self.request(1)

    def _lose(self, worker: _Worker, attempt: _Try, queue: _Queue, error: Exception) -> None:
        attempt.lost += 1
        self.on_event(Event("lost", worker.name, attempt.shard.index, _cause(error)))
        self._replace(worker)
        if attempt.lost < ATTEMPTS:
            queue.again.append(attempt)
        else:
            reason = f"{attempt.lost} workers died while they had it; the last one: {_cause(error)}"
            self.on_event(Event("failed", worker.name, attempt.shard.index, reason))

    def _admit(self, reference: Any) -> None:
        worker = self.loading.pop(reference)
        try:
            worker.name, note = _checked(self.ray.get(reference))
        except self.ray.exceptions.RayActorError as e:
            self.died_loading += 1
            self.on_event(Event("lost", worker.name, reason=_cause(e)))
            if self.died_loading >= LOADING_ATTEMPTS:
                raise CondInstError(
                    f"{self.died_loading} workers died while they loaded the model; the last one: {_cause(e)}. See that"
                    " every machine has this package, the model and enough memory"
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


def _cause(error: Exception) -> str:
    """One line of the many that Ray writes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
