"""The endless sequence of images that a run trains on, decided by the seed alone."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

Key = tuple[int, int]
"""Position in the run's endless row of images, and index of the image."""


class Grouping(NamedTuple):
    """Neighbours of the row that have the same orientation, so that they need little padding (mmdetection's rule)."""

    size: int  # images of a group
    landscape: npt.NDArray[np.bool_]  # (images,) not narrower than high


def batch_keys(
    length: int, batch_size: int, seed: int, first: int, stop: int, grouping: Grouping | None = None
) -> Iterator[list[Key]]:
    """Keys of the batches of iterations `first` to `stop - 1`; every epoch is a new order of all images."""
    blocks = _epochs(length, seed, first * batch_size) if grouping is None else _grouped(length, seed, grouping)
    start, block = next(blocks)
    for iteration in range(first, stop):
        keys = []
        for position in range(iteration * batch_size, (iteration + 1) * batch_size):
            while position >= start + len(block):
                start, block = next(blocks)
            keys.append((position, int(block[position - start])))
        yield keys


def _epochs(length: int, seed: int, position: int) -> Iterator[tuple[int, Indices]]:
    """First position and images of each epoch, from the one of a position on."""
    epoch = position // length
    while True:
        yield epoch * length, _shuffled(length, seed, epoch)
        epoch += 1


def _grouped(length: int, seed: int, grouping: Grouping) -> Iterator[tuple[int, Indices]]:
    """First position and images of each epoch, in groups; what fills no group goes to the next epoch.

    A group takes its place when its last image comes, as in mmdetection's `AspectRatioBatchSampler` with an endless
    sampler.
    """
    start, epoch, left = 0, 0, np.zeros(0, dtype=np.int64)
    while True:
        row = np.concatenate((left, _shuffled(length, seed, epoch)))
        groups, rest = [], []
        for landscape in (False, True):
            places = np.flatnonzero(grouping.landscape[row] == landscape)
            whole = len(places) // grouping.size * grouping.size
            groups.append(places[:whole].reshape(-1, grouping.size))
            rest.append(row[places[whole:]])
        placed = np.concatenate(groups)
        block = row[placed[placed[:, -1].argsort()]].reshape(-1)
        yield start, block
        start, epoch, left = start + len(block), epoch + 1, np.concatenate(rest)


def _shuffled(length: int, seed: int, epoch: int) -> Indices:
    return np.random.default_rng((seed, epoch, length)).permutation(length)
