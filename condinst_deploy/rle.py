"""COCO's compressed run lengths <-> numbers, without a dense mask and without a loop over the runs.

The format is that of pycocotools' `rleToString`: a character holds five bits of a number, the lowest first, and
says whether more follow; the last one's top bit is the sign. From the fourth on, a run is written as the
difference from the one two before it.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

BITS = 5  # in a character
MORE = 1 << BITS  # set in a character that is not a number's last
ZERO = 48  # added to every character
LONGEST = 7  # characters of a number of 32 bits


def counts_from_run_lengths(lengths: Int64, sizes: Sequence[int]) -> list[bytes]:
    """Write the run lengths of several masks, one after the other.

    Args:
        lengths: `(N,)` run lengths, each mask's beginning with the zeros'.
        sizes: how many of them belong to each mask.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    place = np.arange(len(lengths)) - np.repeat(ends - sizes, sizes)
    numbers = lengths.copy()
    numbers[2:] -= np.where(place[2:] > 2, lengths[:-2], 0)
    characters, number_ends = _characters(numbers)
    text = characters.tobytes()
    bounds = [0, *np.append(0, number_ends)[ends].tolist()]
    return [text[start:end] for start, end in pairwise(bounds)]


def _characters(numbers: Int64) -> tuple[npt.NDArray[np.uint8], Int64]:
    """The characters of all numbers, and where each number's end."""
    magnitude = np.where(numbers < 0, ~numbers, numbers)
    lengths = np.ones(len(numbers), dtype=np.int64)
    for bits in range(BITS - 1, BITS * LONGEST - 1, BITS):
        lengths += magnitude >= 1 << bits
    ends = np.cumsum(lengths)
    characters = np.empty(lengths.sum(), dtype=np.uint8)
    at, last = ends - lengths, ends - 1
    while len(at):
        characters[at] = ZERO + (numbers & (MORE - 1)) + MORE * (at < last)
        unfinished = np.flatnonzero(at < last)
        at, last, numbers = at[unfinished] + 1, last[unfinished], numbers[unfinished] >> BITS
    return characters, ends


def run_lengths_from_counts(counts: bytes) -> Int64 | None:
    """Run lengths of one mask; None where the text is not such a text."""
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - ZERO
    if len(codes) == 0 or codes.min() < 0 or codes.max() >= 2 * MORE or codes[-1] & MORE:
        return None
    ends = np.flatnonzero(codes < MORE)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > LONGEST:
        return None
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & (MORE - 1)) << (BITS * place), starts)
    runs -= np.where(codes[ends] & (MORE // 2), np.int64(1) << (BITS * lengths), 0)  # the top bit is the sign
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs
