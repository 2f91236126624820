"""COCO's compressed run lengths <-> numbers, without a loop over the runs.

The format is that of pycocotools' `rleToString`: a character holds five bits of a number, the lowest first, and
says whether more follow; the last one's top bit is the sign. From the fourth on, a run is written as the
difference from the one two before it.
"""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]

BITS = 5  # in a character
MORE = 1 << BITS  # set in a character that is not a number's last
ZERO = 48  # added to every character
LONGEST = 7  # characters of a number of 32 bits

NARROW = 1 << (3 * BITS - 1)
"""Numbers from -NARROW to NARROW - 1 have at most three characters. Nearly all numbers are narrow."""

NOT_NARROW = 2 * NARROW
"""Index of the table's entry for numbers that are not narrow."""

MARK = b"\xff"  # stands for a number that is not narrow; no number has this character

FEW = 1 / 8
"""Largest share of numbers that are not narrow for the fast path, which inserts them one by one."""


def counts_from_runs(masks: Sequence[Int64], pixels: int) -> list[bytes]:
    """Write the runs of several masks of an image.

    Args:
        masks: `(2m,)` starts and ends of each mask's runs.
        pixels: how many the image has.
    """
    if not masks:
        return []
    sizes = np.fromiter(map(len, masks), np.int64, len(masks))
    lasts = np.cumsum(sizes)
    firsts = lasts - sizes
    flat = np.concatenate((*masks, [0]))  # the 0 is what a mask of no runs reads at its end
    lengths = np.empty_like(flat)
    lengths[0] = flat[0]
    np.subtract(flat[1:], flat[:-1], out=lengths[1:])
    lengths[firsts] = flat[firsts]
    # the zeros behind the last run count, too, unless there are none behind a run
    zeros = pixels - np.where(sizes > 0, flat[lasts - 1], 0)
    tailed = (zeros > 0) | (sizes == 0)
    tails = zeros - np.where(sizes > 2, lengths[np.maximum(lasts - 2, 0)], 0)
    count = len(flat) - 1
    numbers = flat[:count]  # large arrays are used again: new memory costs more than the arithmetic
    np.subtract(lengths[2:count], lengths[: max(0, count - 2)], out=numbers[2:])
    for place in range(3):  # the first three of a mask are written as they are
        at = firsts[sizes > place] + place
        numbers[at] = lengths[at]
    narrow = np.add(numbers, NARROW, out=lengths[:count])
    others = narrow.view(np.uint64) >= NOT_NARROW  # of less than 0, too
    others[firsts[sizes > 0]] = True  # so that a mask begins at a mark
    where = np.flatnonzero(others)
    if len(where) > FEW * count:
        return _counts_in_order(numbers, tails, lasts, tailed)
    narrow[where] = NOT_NARROW
    between = _table().take(narrow, mode="clip").tobytes().translate(None, b"\0").split(MARK)[1:]
    texts = _texts(np.concatenate((numbers[where], tails)))
    others_texts, tail_texts = texts[: len(where)], texts[len(where) :]
    parts = [part for pair in zip(others_texts, between, strict=True) for part in pair]
    ends = (2 * np.searchsorted(where, np.append(firsts, count))).tolist()
    behind = [text if some else b"" for text, some in zip(tail_texts, tailed.tolist(), strict=True)]
    return [b"".join(parts[i:j]) + tail for (i, j), tail in zip(pairwise(ends), behind, strict=True)]


def _counts_in_order(numbers: Int64, tails: Int64, lasts: Int64, has_tail: npt.NDArray[np.bool_]) -> list[bytes]:
    """Write numbers of which many are not narrow; `tails` stand behind the numbers that end at `lasts`."""
    text, ends = _text(np.insert(numbers, lasts[has_tail], tails[has_tail]))
    bounds = [0, *ends[lasts + np.cumsum(has_tail) - 1].tolist()]
    return [text[start:end] for start, end in pairwise(bounds)]


def _texts(numbers: Int64) -> list[bytes]:
    text, ends = _text(numbers)
    return [text[start:end] for start, end in pairwise([0, *ends.tolist()])]


@cache
def _table() -> npt.NDArray[np.uint32]:
    """Characters of each narrow number, 0 behind the last one; at the end the mark."""
    numbers = np.arange(-NARROW, NARROW)
    table = np.zeros((NOT_NARROW + 1, 4), dtype=np.uint8)
    for place in range(3):
        smallest = (1 << (BITS * place - 1)) if place else 0  # that has a character there; -smallest has none
        written = (numbers >= smallest) | (numbers < -smallest)
        more = (numbers >= 1 << (BITS * (place + 1) - 1)) | (numbers < -(1 << (BITS * (place + 1) - 1)))
        characters = ZERO + (numbers >> (BITS * place) & (MORE - 1)) + MORE * more
        table[:-1, place] = np.where(written, characters, 0)
    table[-1, 0] = MARK[0]
    return table.view(np.uint32).ravel()


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
