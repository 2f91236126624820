"""Who gets which context, how many stay, and when they are released."""

import threading

import pytest

from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.tensorrt.context_pool import ContextPool


class Context:
    def __init__(self, key: str) -> None:
        self.key, self.closed = key, 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def made() -> list[Context]:
    return []


@pytest.fixture
def pool(made: list[Context]) -> ContextPool[str, Context]:
    def make(key: str) -> Context:
        made.append(Context(key))
        return made[-1]

    return ContextPool(make, keep=2)


def test_a_context_is_used_again_for_its_key_alone(pool: ContextPool[str, Context], made: list[Context]) -> None:
    for key in ("a", "b", "a"):
        with pool.context(key) as context:
            assert context.key == key
    assert [context.key for context in made] == ["a", "b"]
    assert not any(context.closed for context in made)


def test_the_context_unused_longest_goes(pool: ContextPool[str, Context], made: list[Context]) -> None:
    for key in ("a", "b", "a", "c"):
        with pool.context(key):
            pass
    assert {context.key: context.closed for context in made} == {"a": 0, "b": 1, "c": 0}


def test_two_threads_at_one_shape_get_two_contexts(pool: ContextPool[str, Context], made: list[Context]) -> None:
    meet = threading.Barrier(2, timeout=30)
    seen: list[Context] = []

    def work() -> None:
        with pool.context("a") as context:
            meet.wait()
            seen.append(context)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, seen))) == 2
    with pool.context("a"):
        assert len(made) == 2


def test_a_context_that_failed_is_released_and_not_used_again(
    pool: ContextPool[str, Context], made: list[Context]
) -> None:
    with pytest.raises(ValueError, match="broken"), pool.context("a"):
        raise ValueError("broken")
    assert made[0].closed == 1
    with pool.context("a") as context:
        assert context is not made[0]


def test_closing_releases_idle_contexts_now_and_others_when_they_end(
    pool: ContextPool[str, Context], made: list[Context]
) -> None:
    with pool.context("idle"):
        pass
    with pool.context("busy"):
        pool.close()
        assert [context.closed for context in made] == [1, 0]
    assert [context.closed for context in made] == [1, 1]
    with pytest.raises(BackendError, match="was closed; load it again"), pool.context("a"):
        pass
