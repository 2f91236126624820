"""The driver when workers die, fail or never start, without Ray: the workers of a stand-in follow a script."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from condinst_deploy.errors import BackendError, CondInstError, ConfigError, OutputError
from condinst_deploy.serving.batch import ray_driver
from condinst_deploy.serving.batch.batch_driver import planned
from condinst_deploy.serving.batch.ray_driver import NOTICE_SECONDS, Failure, run_on_ray
from condinst_deploy.serving.batch.reporting import Event
from condinst_deploy.serving.batch.shard_worker import ShardReport
from condinst_deploy.serving.batch.shards import Shard
from condinst_deploy.serving.ray_session import RayOptions
from tests.support.batch_runs import options_of


class RayError(Exception):
    """Whatever Ray tells: a dead node, a worker that was ended because the memory was used up."""


class RayTaskError(RayError):
    """An exception of the worker's code."""

    cause = RuntimeError("No module named 'condinst_deploy'\nand a traceback")


Script = Callable[[int, Shard | None], Any]
"""Action of worker number N with a shard, or at loading: a result, an exception, or `NotImplemented` for never."""


@dataclass
class StandIn:
    """As much of Ray as the driver uses."""

    script: Script
    resources: dict[str, float] = field(default_factory=lambda: {"CPU": 2.0})
    exceptions: Any = field(default_factory=lambda: SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))
    workers: int = 0
    killed: list[int] = field(default_factory=list)
    given: list[tuple[int, int]] = field(default_factory=list)  # worker, shard
    most_given: int = 0  # at the same time
    waits: int = 0

    def remote(self, _actor_class: type) -> "StandIn":
        return self

    def options(self, **_: Any) -> Any:
        return SimpleNamespace(remote=self._worker)

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def kill(self, actor: Any) -> None:
        self.killed.append(actor.number)

    def wait(self, references: Sequence[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        self.waits += 1
        assert self.waits < 10_000, "the driver waits for ever"
        self.most_given = max(self.most_given, sum(reference.shard is not None for reference in references))
        for reference in reversed(references):  # workers that load come last
            if reference.result is NotImplemented:
                reference.result = self.script(reference.number, reference.shard)
            if reference.result is not NotImplemented:
                return [reference], [other for other in references if other is not reference]
        return [], list(references)

    def get(self, reference: Any) -> Any:
        if isinstance(reference.result, Exception):
            raise reference.result
        return reference.result

    def _worker(self, _job: Any, _cores: Any) -> Any:
        number, self.workers = self.workers, self.workers + 1

        def run(shard: Shard) -> Any:
            self.given.append((number, shard.index))
            return _Reference(number, shard)

        load = SimpleNamespace(remote=lambda: _Reference(number, None))
        return SimpleNamespace(number=number, load=load, run=SimpleNamespace(remote=run))


@dataclass(eq=False)
class _Reference:
    """A reference to what `load` returns, or the generator of what `run` yields."""

    number: int
    shard: Shard | None
    result: Any = NotImplemented

    def __next__(self) -> "_Reference":
        yielded = _Reference(self.number, self.shard, self.result)
        if isinstance(self.result, int):
            self.result = NotImplemented  # more comes
        return yielded


def works(number: int, shard: Shard | None) -> Any:
    if shard is None:
        return f"{number}@host", "a model"
    return ShardReport(shard.index, len(shard), 0, 0, 0.1, f"{number}@host")


@pytest.fixture
def run(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[StandIn, list[Event], CondInstError | None]]:
    """Run shards of one image on the stand-in; returns it, the events, and the error that ended the run."""

    def run(
        script: Script,
        shards: int = 4,
        notice_seconds: float = NOTICE_SECONDS,
        images: list[int] | None = None,
        **options: Any,
    ) -> tuple[StandIn, list[Event], CondInstError | None]:
        stand_in, events = StandIn(script), list[Event]()
        images = [] if images is None else images

        @contextmanager
        def session(_: RayOptions) -> Iterator[StandIn]:
            yield stand_in

        monkeypatch.setattr(ray_driver, "ray_session", session)
        (tmp_path / "list.txt").write_text("".join(f"{i}.jpg\n" for i in range(shards)))
        batch = options_of(tmp_path / "list.txt", small_model, tmp_path / "out", format="coco", shard_size=1)
        with planned(batch) as plan:
            try:
                run_on_ray(plan, RayOptions(**{"workers": 2} | options), events.append, images.append, notice_seconds)
            except CondInstError as e:
                return stand_in, events, e
        return stand_in, events, None

    return run


def of_kind(events: list[Event], kind: str) -> list[int]:
    """Shards of the events of a kind, sorted; -1: of a worker that had none."""
    return sorted(-1 if event.shard is None else event.shard for event in events if event.kind == kind)


def test_each_worker_has_one_shard_at_a_time_however_long_the_input(run: Any) -> None:
    stand_in, events, error = run(works, shards=1000)
    assert error is None
    assert of_kind(events, "done") == list(range(1000))
    assert (stand_in.most_given, len(stand_in.given)) == (2, 1000)
    assert sorted(stand_in.killed) == [0, 1]  # at the end


def test_images_of_all_shards_under_way_are_counted(run: Any) -> None:
    """Two workers at a time: what each last said of its shard, without shards that ended or were lost."""
    said: dict[int, Iterator[Any]] = {}

    def script(number: int, shard: Shard | None) -> Any:
        if shard is None:
            return works(number, None)
        ends = RayError("died") if number == 0 else works(number, shard)
        return next(said.setdefault(number, iter([3, 5, ends])), ends)

    images: list[int] = []
    _, events, error = run(script, shards=3, images=images)
    assert error is None
    assert of_kind(events, "done") == [0, 1, 2]
    assert len(of_kind(events, "lost")) == 1
    assert set(images) <= {0, 3, 5, 6, 8, 10}
    assert {3, 5} < set(images)
    assert images[-1] == 0


@pytest.mark.parametrize(
    "lost", [RayError("the memory of the node was used up\nand more"), Failure(BackendError, "CUDA error 700")]
)
def test_a_worker_that_is_lost_or_whose_model_fails_is_replaced(run: Any, lost: Any) -> None:
    def script(number: int, shard: Shard | None) -> Any:
        return lost if shard is not None and number == 0 else works(number, shard)

    stand_in, events, error = run(script)
    assert error is None
    assert of_kind(events, "done") == [0, 1, 2, 3]
    assert len(of_kind(events, "lost")) == 1
    assert stand_in.workers == 3
    assert sorted(stand_in.killed) == [0, 1, 2]  # the failed one at once: it may live, and hold a GPU
    assert {event.reason for event in events if event.kind == "lost"} <= {
        "the memory of the node was used up",
        "CUDA error 700",
    }


def test_workers_that_die_with_every_shard_end_the_run(run: Any) -> None:
    def script(number: int, shard: Shard | None) -> Any:
        return works(number, None) if shard is None else RayError("died")

    stand_in, events, error = run(script, shards=1000)
    assert str(error).startswith("3 shards one after the other cost 4 workers each, the last one because: died. See")
    assert len(of_kind(events, "failed")) == 3
    assert 12 <= len(stand_in.given) <= 16


def test_shards_that_are_left_out_now_and_then_do_not_end_the_run(run: Any) -> None:
    def script(number: int, shard: Shard | None) -> Any:
        return RayError("died") if shard is not None and shard.index % 10 == 5 else works(number, shard)

    _, events, error = run(script, shards=60)
    assert error is None
    assert of_kind(events, "failed") == [5, 15, 25, 35, 45, 55]
    assert len(of_kind(events, "done")) == 54


@pytest.mark.parametrize(("workers", "deaths"), [(2, 3), (5, 5)])
def test_workers_that_die_while_they_load_end_the_run(run: Any, workers: int, deaths: int) -> None:
    stand_in, events, error = run(lambda number, shard: RayError("out of memory"), shards=9, workers=workers)
    assert str(error).startswith(f"{deaths} workers died while they loaded the model; the last one: out of memory")
    assert (len(of_kind(events, "lost")), stand_in.given) == (deaths, [])


def test_a_machine_without_the_package_is_one_line(run: Any) -> None:
    _, _, error = run(lambda number, shard: RayTaskError("a traceback"))
    assert str(error) == (
        "a worker cannot load the model: No module named 'condinst_deploy'. See that every machine has this package"
    )


def test_errors_that_no_other_worker_can_mend_end_the_run(run: Any) -> None:
    def script(number: int, shard: Shard | None) -> Any:
        return works(number, None) if shard is None else Failure(OutputError, "the disk is full")

    stand_in, events, error = run(script)
    assert isinstance(error, OutputError)
    assert str(error) == "the disk is full"
    assert (of_kind(events, "lost"), len(stand_in.given)) == ([], 2)


def test_a_wait_for_room_is_reported(run: Any) -> None:
    calls: list[int] = []

    def script(number: int, shard: Shard | None) -> Any:
        calls.append(number)
        return NotImplemented if len(calls) < 6 else works(number, shard)

    _, events, error = run(script, notice_seconds=0.0, cpus_per_worker=3.0)
    assert error is None
    reported = [event.reason for event in events if event.kind == "waiting"]
    assert set(reported) == {"no worker is ready yet; each needs 3 CPUs and 0 GPUs, and the cluster has 2 and 0"}


def test_more_gpus_than_this_machine_has_are_refused(run: Any) -> None:
    stand_in, _, error = run(works, gpus_per_worker=1.0)
    assert isinstance(error, ConfigError)
    assert "--gpus-per-worker 1: Ray sees fewer GPUs on this machine" in str(error)
    assert stand_in.workers == 0
    _, events, error = run(works, gpus_per_worker=1.0, address="head:6379")  # a cluster may grow
    assert error is None
    assert len(of_kind(events, "done")) == 4
