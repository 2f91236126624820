"""Assignment, number and release of slots."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.tensorrt.slot_pool import SlotPool

SECONDS = 30


class Kept:
    def __init__(self) -> None:
        self.closed = 0
        self.users = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def made() -> list[Kept]:
    return []


def pool_of(made: list[Kept], most: int) -> SlotPool[Kept]:
    def make() -> Kept:
        made.append(Kept())
        return made[-1]

    return SlotPool(make, most)


def test_the_slot_used_last_comes_first(made: list[Kept]) -> None:
    pool = pool_of(made, 2)
    with pool.slot() as first, pool.slot() as second:
        assert first is not second
    with pool.slot() as again:
        assert again is first  # put back last
    assert len(made) == 2
    assert pool.idle() == [second, first]


def test_threads_take_turns(made: list[Kept]) -> None:
    pool = pool_of(made, 2)

    def work(_: int) -> None:
        for _ in range(200):
            with pool.slot() as slot:
                slot.users += 1
                assert slot.users == 1
                slot.users -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert len(made) <= 2


def test_a_slot_that_failed_is_released_and_replaced(made: list[Kept]) -> None:
    pool = pool_of(made, 1)
    with pytest.raises(ValueError, match="broken"), pool.slot():
        raise ValueError("broken")
    assert made[0].closed == 1
    with pool.slot() as slot:
        assert slot is made[1]


def test_a_slot_that_cannot_be_made_leaves_room_for_the_next_try() -> None:
    answers = iter((BackendError("no memory"), Kept()))

    def make() -> Kept:
        answer = next(answers)
        if isinstance(answer, BackendError):
            raise answer
        assert isinstance(answer, Kept)
        return answer

    pool = SlotPool(make, 1)
    with pytest.raises(BackendError, match="no memory"), pool.slot():
        pass
    with pool.slot() as slot:
        assert slot.closed == 0


def test_closing_releases_idle_slots_waits_for_others_and_tells_those_who_wait(made: list[Kept]) -> None:
    pool = pool_of(made, 1)
    entered, leave = threading.Event(), threading.Event()
    waited: list[str] = []

    def use() -> None:
        with pool.slot():
            entered.set()
            assert leave.wait(SECONDS)

    def wait() -> None:
        try:
            with pool.slot():
                waited.append("a slot")
        except BackendError as e:
            waited.append(str(e))

    user = threading.Thread(target=use)
    user.start()
    assert entered.wait(SECONDS)
    waiter, closer = threading.Thread(target=wait), threading.Thread(target=pool.close)
    waiter.start()
    closer.start()
    waiter.join(SECONDS)
    assert waited == ["this model was closed; load it again"]
    assert made[0].closed == 0
    leave.set()
    for thread in (user, closer):
        thread.join(SECONDS)
    assert made[0].closed == 1
    with pytest.raises(BackendError, match="was closed; load it again"), pool.slot():
        pass
