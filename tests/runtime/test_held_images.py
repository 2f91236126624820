"""Bytes of decoded images that a stream holds: bounded, without a standstill, and without chance in its batches."""

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.errors import ImageError
from condinst_deploy.runtime.batching import BatchingLimits, BatchingPolicy
from condinst_deploy.runtime.held_images import HeldImages
from condinst_deploy.runtime.pipeline import Stages, predictions
from condinst_deploy.runtime.preprocessing.types import Prepared

SECONDS = 60
SIDE = 20
EACH = 3 * SIDE * SIDE


class Counted:
    """Bytes of images between their decoding and the consumer."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self.now += size
            self.most = max(self.most, self.now)


def stages(counted: Counted, seen: list[list[int]], **changes: Any) -> Stages:
    """A source is (number, padded side, times of `EACH`), or an error."""

    def prepare(source: Any, name: str) -> Prepared:
        if isinstance(source, Exception):
            raise source
        number, padded, times = source
        counted.add(times * EACH)
        geometry = ImageGeometry((SIDE, SIDE * times), (padded, padded), (padded, padded))
        return Prepared(np.empty(0, np.uint8), geometry, number)

    def forward(numbers: Any) -> Any:
        seen.append(list(numbers))
        return numbers

    usual: dict[str, Any] = {"batch_size": 4, "window": 1024, "most_waiting": 64, "longest_wait": 128, "workers": 4}
    usual |= {"collate": list, "forward": forward, "postprocess": lambda outputs, geometries: list(outputs)}
    return Stages(prepare, **(usual | changes))


def consumed(made: Stages, sources: list[Any], counted: Counted) -> list[Any]:
    found = []
    for source, prediction in zip(sources, predictions(made, iter(sources)), strict=True):
        if prediction.error is None:
            counted.add(-source[2] * EACH)
        found.append(prediction.detections)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_large_images_are_held_by_their_bytes_and_the_stream_goes_on(seed: int) -> None:
    rng = random.Random(seed)
    sources: list[Any] = [(i, rng.choice((32, 32, 64, 96, 128)), rng.choice((1, 1, 2, 5))) for i in range(300)]
    for i in rng.sample(range(300), 10):
        sources[i] = ImageError("torn")
    counted, seen = Counted(), list[list[int]]()
    made = stages(counted, seen, most_bytes=30 * EACH)
    numbers = [None if isinstance(source, Exception) else source[0] for source in sources]
    assert consumed(made, sources, counted) == numbers
    assert counted.now == 0
    assert counted.most <= (30 + 4 * 5) * EACH  # the limit, and what four threads decode
    policy = BatchingPolicy[int](made.batching)
    want = []
    for source in sources:
        image = not isinstance(source, Exception)
        want += policy.add(source[1], source[0], source[2] * EACH) if image else policy.skip()
    assert seen == [*want, *policy.flush()]  # whatever the threads do


def test_without_a_limit_more_is_held() -> None:
    """The bound above comes from the limit, and not from the made-up stages."""
    sources = [(i, 32 * (1 + i % 20), 5) for i in range(300)]
    counted = Counted()
    consumed(stages(counted, [], most_bytes=None), sources, counted)
    assert counted.most > (30 + 4 * 5) * EACH


def test_one_image_above_the_limit_is_taken_alone() -> None:
    sources = [(i, 32, 50) for i in range(6)]
    counted = Counted()
    assert consumed(stages(counted, [], most_bytes=10 * EACH), sources, counted) == list(range(6))
    assert counted.most <= (4 + 1) * 50 * EACH  # the first ones, whose sizes nobody knows


def test_a_stream_that_is_left_wakes_the_threads_that_wait_for_room() -> None:
    sources: Iterator[Any] = ((i, 32, 50) for i in range(1000))
    with closing(predictions(stages(Counted(), [], most_bytes=EACH), sources)) as stream:
        next(stream)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("condinst-")]


def test_images_are_let_in_by_their_order() -> None:
    held, order = HeldImages(10), list[int]()

    def enter(position: int) -> None:
        held.begin(position)
        order.append(position)
        held.decoded(position, 1)

    threads = [threading.Thread(target=enter, args=(position,)) for position in (2, 1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert order[0] == 0
    assert sorted(order) == [0, 1, 2]


def test_a_batch_runs_when_the_bytes_since_its_first_image_reach_the_limit() -> None:
    policy = BatchingPolicy[int](BatchingLimits(8, 100, most_bytes=10))
    assert [policy.add(shape, i, 3) for i, shape in enumerate("abab")] == [[], [], [], [[0, 2]]]
    assert policy.add("b", 4, 3) == [[1, 3, 4]]
    assert policy.add("c", 5, 50) == [[5]]
    assert policy.flush() == []
