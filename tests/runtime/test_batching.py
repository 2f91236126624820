"""Which images share a batch."""

import random

import pytest

from condinst_deploy.runtime.batching import BatchingLimits, BatchingPolicy, rounded_batch

Ran = list[tuple[int, list[int]]]


def batches_of(shapes: list[str | None], limits: BatchingLimits) -> Ran:
    """(last image that the policy had seen, images of the batch); None is an image that cannot be read."""
    policy, ran = BatchingPolicy[int](limits), Ran()
    for i, shape in enumerate(shapes):
        ran += [(i, batch) for batch in (policy.skip() if shape is None else policy.add(shape, i))]
    return ran + [(len(shapes), batch) for batch in policy.flush()]


@pytest.mark.parametrize(
    ("shapes", "limits", "expected"),
    [
        ("aab", BatchingLimits(2, 8), [(1, [0, 1]), (3, [2])]),
        ("abab", BatchingLimits(3, 4), [(3, [0, 2]), (3, [1, 3])]),  # the section ends
        ("abcda", BatchingLimits(4, 99, most_waiting=3), [(3, [0]), (4, [1]), (5, [2]), (5, [3]), (5, [4])]),
        ("aabcd", BatchingLimits(4, 99, most_waiting=3), [(3, [0, 1]), (5, [2]), (5, [3]), (5, [4])]),  # the largest
        ("abbbc", BatchingLimits(8, 99, longest_wait=3), [(3, [0]), (4, [1, 2, 3]), (5, [4])]),
        ("", BatchingLimits(2, 4), []),
    ],
)
def test_batches_follow_from_the_order_of_the_shapes(shapes: str, limits: BatchingLimits, expected: Ran) -> None:
    assert batches_of(list(shapes), limits) == expected


def test_an_image_that_cannot_be_read_counts_as_one_that_passed() -> None:
    limits = BatchingLimits(8, 4)
    assert batches_of(["a", None, None, None, "a"], limits) == [(3, [0]), (5, [4])]
    assert batches_of(["a", None, None, None], BatchingLimits(8, 99, longest_wait=2)) == [(2, [0])]


LIMITS = [BatchingLimits(8, 32), BatchingLimits(8, 1024, 64, 128), BatchingLimits(4, 100, 10, 20), BatchingLimits(1, 1)]


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("seed", range(5))
def test_every_image_runs_once_in_time_with_images_of_its_shape(limits: BatchingLimits, seed: int) -> None:
    rng = random.Random(seed)
    shapes = [rng.choices([*"abcdefghij", None], [30, 20, 9, 5, 4, 3, 2, 1, 1, 1, 1])[0] for _ in range(2000)]
    ran = batches_of(shapes, limits)
    assert sorted(i for _, batch in ran for i in batch) == [i for i, shape in enumerate(shapes) if shape is not None]
    waiting = 0
    for seen, batch in ran:
        assert batch == sorted(batch)
        assert len(batch) <= limits.batch_size
        assert len({shapes[i] for i in batch}) == 1
        assert len({i // limits.section for i in batch}) == 1
        assert seen - batch[0] <= limits.most_held
    for i in range(len(shapes)):
        waiting += shapes[i] is not None
        waiting -= sum(len(batch) for seen, batch in ran if seen == i)
        assert waiting <= (limits.most_waiting or limits.section)


def test_batches_of_a_section_do_not_depend_on_earlier_ones() -> None:
    limits = BatchingLimits(8, 100, 20, 40)
    rng = random.Random(0)
    first, second = ([rng.choice("abcdef") for _ in range(100)] for _ in range(2))
    together = [batch for _, batch in batches_of([*first, *second], limits) if batch[0] >= 100]
    assert together == [[i + 100 for i in batch] for _, batch in batches_of([*second], limits)]


@pytest.mark.parametrize(
    ("images", "largest", "expected"),
    [(1, None, 1), (2, 8, 2), (3, 8, 4), (5, 8, 8), (8, 8, 8), (5, 6, 6), (6, 6, 6), (3, 3, 3), (9, 16, 16), (1, 1, 1)],
)
def test_a_partial_batch_is_filled_up_to_a_power_of_two(images: int, largest: int | None, expected: int) -> None:
    assert rounded_batch(images, largest) == expected
