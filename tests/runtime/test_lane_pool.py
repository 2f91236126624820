"""Who gets which lane, how many stay, and when they are released."""

import threading

import pytest

from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.lane_pool import LanePool


class Lane:
    def __init__(self, key: str) -> None:
        self.key, self.closed = key, 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def made() -> list[Lane]:
    return []


@pytest.fixture
def pool(made: list[Lane]) -> LanePool[str, Lane]:
    def make(key: str) -> Lane:
        made.append(Lane(key))
        return made[-1]

    return LanePool(make, keep=2)


def test_a_lane_is_used_again_for_its_key_alone(pool: LanePool[str, Lane], made: list[Lane]) -> None:
    for key in ("a", "b", "a"):
        with pool.lane(key) as lane:
            assert lane.key == key
    assert [lane.key for lane in made] == ["a", "b"]
    assert not any(lane.closed for lane in made)


def test_the_lane_unused_longest_goes(pool: LanePool[str, Lane], made: list[Lane]) -> None:
    for key in ("a", "b", "a", "c"):
        with pool.lane(key):
            pass
    assert {lane.key: lane.closed for lane in made} == {"a": 0, "b": 1, "c": 0}


def test_two_threads_at_one_shape_get_two_lanes(pool: LanePool[str, Lane], made: list[Lane]) -> None:
    meet = threading.Barrier(2, timeout=30)
    seen: list[Lane] = []

    def work() -> None:
        with pool.lane("a") as lane:
            meet.wait()
            seen.append(lane)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, seen))) == 2
    with pool.lane("a"):
        assert len(made) == 2


def test_a_lane_that_failed_is_released_and_not_used_again(pool: LanePool[str, Lane], made: list[Lane]) -> None:
    with pytest.raises(ValueError, match="broken"), pool.lane("a"):
        raise ValueError("broken")
    assert made[0].closed == 1
    with pool.lane("a") as lane:
        assert lane is not made[0]


def test_closing_releases_idle_lanes_now_and_others_when_they_end(pool: LanePool[str, Lane], made: list[Lane]) -> None:
    with pool.lane("idle"):
        pass
    with pool.lane("busy"):
        pool.close()
        assert [lane.closed for lane in made] == [1, 0]
    assert [lane.closed for lane in made] == [1, 1]
    with pytest.raises(BackendError, match="was closed; load it again"), pool.lane("a"):
        pass
