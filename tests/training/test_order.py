"""The endless row of images: every image once an epoch, and groups of one orientation as mmdetection makes them."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import pytest

from condinst_deploy.training.order import Grouping, Key, batch_keys

LENGTH, EPOCHS, SEED = 23, 5, 3
LANDSCAPE = np.random.default_rng(0).random(LENGTH) < 0.6


def grouped_plainly(row: Iterator[int], landscape: npt.NDArray[np.bool_], size: int) -> Iterator[list[int]]:
    """Two buckets, as in mmdetection's `AspectRatioBatchSampler`: one is emptied when it is full."""
    buckets: dict[bool, list[int]] = {True: [], False: []}
    for image in row:
        bucket = buckets[bool(landscape[image])]
        bucket.append(image)
        if len(bucket) == size:
            yield bucket[:]
            bucket.clear()


def images_of(keys: Iterator[list[Key]]) -> list[int]:
    return [image for batch in keys for _, image in batch]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_groups_are_those_of_two_buckets_that_an_endless_row_fills(size: int) -> None:
    plain = images_of(batch_keys(LENGTH, 1, SEED, 0, LENGTH * EPOCHS))
    wanted = [image for group in grouped_plainly(iter(plain), LANDSCAPE, size) for image in group]
    batches = len(wanted) // 12
    got = images_of(batch_keys(LENGTH, 12, SEED, 0, batches, Grouping(size, LANDSCAPE)))
    assert got == wanted[: 12 * batches]
    assert all(len(set(LANDSCAPE[got[i : i + size]])) == 1 for i in range(0, len(got), size))


def test_no_image_is_left_out_for_long() -> None:
    """Without groups every image comes once an epoch; with them an image waits for a partner, at most an epoch."""
    for grouping, most in ((None, 1), (Grouping(2, LANDSCAPE), 2)):
        keys = images_of(batch_keys(LENGTH, 1, SEED, 0, LENGTH * EPOCHS, grouping))
        epochs = [Counter(keys[i : i + LENGTH]) for i in range(0, len(keys), LENGTH)]
        assert max(count for epoch in epochs for count in epoch.values()) <= most
        counts = Counter(keys)
        assert set(counts) == set(range(LENGTH))
        assert max(counts.values()) - min(counts.values()) <= 2 * (most - 1)


@pytest.mark.parametrize("grouping", [None, Grouping(2, LANDSCAPE)])
def test_keys_from_the_middle_are_those_of_the_whole_row(grouping: Grouping | None) -> None:
    whole = list(batch_keys(LENGTH, 4, SEED, 0, 40, grouping))
    for first in (1, 7, 29):
        assert list(islice(batch_keys(LENGTH, 4, SEED, first, 40, grouping), 11)) == whole[first : first + 11]
    assert [position for batch in whole for position, _ in batch] == list(range(160))
