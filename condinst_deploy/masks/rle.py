"""COCO's compressed run lengths <-> numbers, without a loop over the runs.

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


def counts_from_runs(masks: Sequence[Int64], pixels: int) -> list[bytes]:
    """Write the runs of several masks of an image.

    Args:
        masks: `(2m,)` starts and ends of each mask's runs.
        pixels: how many the image has.
    """
    whole = np.array([pixels])
    # the zeros behind the last run count, too, unless there are none
    ends = [part for runs in masks for part in ((runs,) if pixels in runs[-1:] else (runs, whole))]
    sizes = np.array([len(runs) + (pixels not in runs[-1:]) for runs in masks])
    lasts = np.cumsum(sizes)
    firsts = lasts - sizes
    flat = np.concatenate(ends)
    lengths = np.diff(flat, prepend=0)
    lengths[firsts] = flat[firsts]
    numbers = lengths.copy()
    numbers[2:] -= lengths[:-2]
    for place in range(3):  # the first three of a mask are written as they are
        at = firsts[sizes > place] + place
        numbers[at] = lengths[at]
    text, ends_of_numbers = _text(numbers)
    bounds = [0, *ends_of_numbers[lasts - 1].tolist()]
    return [text[start:end] for start, end in pairwise(bounds)]


def _text(numbers: Int64) -> tuple[bytes, Int64]:
    """The characters of all numbers, and where those of each end."""
    magnitude = np.where(numbers < 0, ~numbers, numbers)
    lengths = np.ones(len(numbers), dtype=np.int64)  # in characters
    for bits in range(BITS - 1, BITS * LONGEST - 1, BITS):
        lengths += magnitude >= 1 << bits
    ends = np.cumsum(lengths)
    characters = np.empty(ends[-1], dtype=np.uint8)
    place, last = ends - lengths, ends - 1
    while len(place):
        more = place < last
        characters[place] = ZERO + (numbers & (MORE - 1)) + MORE * more
        place, last, numbers = place[more] + 1, last[more], numbers[more] >> BITS
    return characters.tobytes(), ends


def run_lengths_from_counts(counts: bytes) -> Int64 | None:
    """Run lengths of one mask; None if the counts are malformed."""
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
