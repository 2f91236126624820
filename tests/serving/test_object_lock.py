"""The lock of a folder behind a URL: who holds it, and when it is taken over. The clock is the test's."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from condinst_deploy.errors import ConfigError, OutputError
from condinst_deploy.serving.batch.batch_driver import planned
from condinst_deploy.serving.batch.object_lock import FILE, LOCK_TIMES, ObjectLock
from condinst_deploy.serving.batch.storage import UrlFolder
from tests.support.batch_runs import options_of
from tests.support.storages import empty_memory

OUT = "memory://locked/out"


class Clock:
    """Time that passes in `sleep` only; what is planned happens meanwhile."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.plans: list[tuple[float, Callable[[], Any]]] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        due = [plan for plan in self.plans if plan[0] <= self.now]
        self.plans = [plan for plan in self.plans if plan[0] > self.now]
        for _, action in sorted(due, key=lambda plan: plan[0]):
            action()

    def after(self, seconds: float, action: Callable[[], Any]) -> None:
        self.plans.append((self.now + seconds, action))

    def beats(self, lock: ObjectLock, count: int) -> None:
        """Plan heartbeats of a driver that lives."""
        for number in range(1, count + 1):
            self.after(number * LOCK_TIMES.beat, lock.beat)


class NoConditions(UrlFolder):
    """A storage that cannot create an object only if it is new."""

    def create_new(self, name: str, content: bytes) -> bool | None:
        return None


class IgnoredConditions(UrlFolder):
    """A storage that overwrites an object in spite of the condition."""

    def create_new(self, name: str, content: bytes) -> bool | None:
        self.write(name, content)
        return True


@pytest.fixture(autouse=True)
def memory() -> Iterator[Any]:
    with empty_memory() as memory:
        yield memory


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lock_of(clock: Clock, storage: type[UrlFolder] = UrlFolder) -> ObjectLock:
    return ObjectLock(storage(OUT), clock, clock.sleep)


def unwanted(line: str) -> None:
    raise AssertionError(line)


@pytest.mark.parametrize("storage", [UrlFolder, NoConditions])
def test_a_lock_is_there_until_it_is_released(storage: type[UrlFolder], clock: Clock) -> None:
    for _ in range(2):
        lock = lock_of(clock, storage)
        lock.acquire(unwanted)
        first = UrlFolder(OUT).read(FILE)
        lock.beat()
        assert first is not None
        assert UrlFolder(OUT).read(FILE) not in (first, None)
        lock.check()
        lock.release()
        assert UrlFolder(OUT).read(FILE) is None


@pytest.mark.parametrize("storage", [UrlFolder, NoConditions])
def test_a_second_driver_is_refused_while_the_first_one_lives(storage: type[UrlFolder], clock: Clock) -> None:
    first, second, lines = lock_of(clock, storage), lock_of(clock, storage), list[str]()
    first.acquire(unwanted)
    clock.beats(first, 3)
    began = clock.now
    with pytest.raises(ConfigError, match=r"another run \(process \d+@.*\) writes into memory://locked/out; wait for"):
        second.acquire(lines.append)
    assert clock.now - began <= LOCK_TIMES.beat + LOCK_TIMES.poll
    assert len(lines) == 1
    assert "has the lock of another run (process " in lines[0]
    first.beat()
    first.check()


def test_the_lock_of_a_dead_driver_is_taken_over_and_it_learns_of_it(clock: Clock) -> None:
    stopped, second, lines = lock_of(clock), lock_of(clock), list[str]()
    stopped.acquire(unwanted)
    began = clock.now
    second.acquire(lines.append)
    assert clock.now - began >= LOCK_TIMES.stale
    assert len(lines) == 1
    stopped.check()  # it does not know yet
    stopped.beat()
    with pytest.raises(
        ConfigError, match="another run has taken over memory://locked/out, because this one was silent"
    ):
        stopped.check()
    held = UrlFolder(OUT).read(FILE)
    stopped.beat()
    stopped.release()
    assert UrlFolder(OUT).read(FILE) == held
    second.beat()
    second.check()


def test_a_lock_that_is_released_while_it_is_watched_is_free(clock: Clock) -> None:
    first, second = lock_of(clock), lock_of(clock)
    first.acquire(unwanted)
    clock.after(3.5, first.release)
    began = clock.now
    second.acquire(lambda line: None)
    assert clock.now - began < LOCK_TIMES.stale
    second.beat()
    second.check()


def test_of_two_drivers_that_see_no_lock_one_gets_it(clock: Clock) -> None:
    first, second = lock_of(clock, NoConditions), lock_of(clock, NoConditions)
    outcome: list[str] = []

    def also() -> None:
        UrlFolder(OUT).remove(FILE)  # as if the second one had not seen the first one's
        second.acquire(unwanted)
        outcome.append("second")
        clock.beats(second, 20)

    clock.after(LOCK_TIMES.settle / 2, also)
    with pytest.raises(ConfigError, match="another run"):
        first.acquire(lambda line: None)
    assert outcome == ["second"]
    second.beat()
    second.check()


def test_of_two_drivers_that_take_over_one_gets_the_lock(clock: Clock) -> None:
    dead, first, second = (lock_of(clock) for _ in range(3))
    dead.acquire(unwanted)
    left = UrlFolder(OUT).read(FILE)
    assert left is not None

    def also() -> None:
        UrlFolder(OUT).write(FILE, left)  # as if the second one had not seen that the first one wrote
        second.acquire(lambda line: None)
        clock.beats(second, 20)

    clock.after(LOCK_TIMES.stale + LOCK_TIMES.settle / 2, also)
    with pytest.raises(ConfigError, match="another run"):
        first.acquire(lambda line: None)
    second.beat()
    second.check()


def test_a_storage_that_ignores_the_condition_is_noticed_at_the_next_heartbeat(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = lock_of(clock, IgnoredConditions), lock_of(clock, IgnoredConditions)
    first.acquire(unwanted)
    with monkeypatch.context() as patch:
        patch.setattr(UrlFolder, "read", lambda self, name: None)  # both looked before one of them wrote
        second.acquire(unwanted)
    for lock in (first, second, first):
        lock.beat()
    with pytest.raises(ConfigError, match="has taken over"):
        first.check()
    second.check()


def test_a_heartbeat_outlives_errors_of_the_storage_and_the_removal_of_the_lock(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise OutputError("503 Slow Down")

    lock = lock_of(clock)
    lock.acquire(unwanted)
    for name in ("read", "write"):
        with monkeypatch.context() as patch:
            patch.setattr(UrlFolder, name, fails)
            lock.beat()
    lock.check()
    UrlFolder(OUT).remove(FILE)
    lock.beat()
    lock.check()
    assert UrlFolder(OUT).read(FILE) is not None
    monkeypatch.setattr(UrlFolder, "remove", fails)
    lock.release()


def test_a_lock_that_is_no_lock_is_watched_like_one(clock: Clock) -> None:
    UrlFolder(OUT).write(FILE, b"\xff\x1b[2J\n" * 100)
    lines: list[str] = []
    lock = lock_of(clock)
    lock.acquire(lines.append)
    assert "\x1b" not in lines[0]
    lock.check()


QUICK = LOCK_TIMES._replace(beat=0.01, poll=0.01)


def test_two_drivers_cannot_write_into_one_folder_behind_a_url(ten_images: list[Any], small_model: Any) -> None:
    options = options_of(ten_images[0].parent, small_model, OUT, format="coco")
    with (
        planned(options, lock_times=QUICK),
        pytest.raises(ConfigError, match="another run"),
        planned(options, lock_times=QUICK),
    ):
        pass
    assert [name for name, _ in UrlFolder(OUT).files()] == ["run.json"]
    with planned(options, lock_times=QUICK):  # it is free again
        pass


def test_a_driver_whose_lock_was_taken_gives_out_no_more_shards(ten_images: list[Any], small_model: Any) -> None:
    options = options_of(ten_images[0].parent, small_model, OUT, format="coco")

    def is_lost() -> bool:
        try:
            plan.out.check_locked()
        except ConfigError:
            return True
        return False

    with planned(options, lock_times=QUICK) as plan:
        shards = plan.pending()
        assert next(shards).index == 0
        while not is_lost():  # the heartbeat may write between two looks of this test
            UrlFolder(OUT).write(FILE, b"other 1@other 0\n")
        with pytest.raises(ConfigError, match="another run has taken over"):
            next(shards)


@pytest.mark.ray
def test_the_lock_on_s3(s3: Any, clock: Clock) -> None:
    s3.mkdir("locks")
    folder = UrlFolder("s3://locks/out")
    first, second, third = (ObjectLock(UrlFolder("s3://locks/out"), clock, clock.sleep) for _ in range(3))
    first.acquire(unwanted)
    assert folder.create_new(FILE, b"x") is not True
    clock.beats(first, 1)
    with pytest.raises(ConfigError, match="another run"):
        second.acquire(lambda line: None)
    third.acquire(lambda line: None)  # the first one is silent now
    first.beat()
    with pytest.raises(ConfigError, match="has taken over"):
        first.check()
    third.release()
    assert folder.read(FILE) is None
