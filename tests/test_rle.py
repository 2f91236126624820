"""COCO's compressed run lengths against pycocotools."""

from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from condinst_deploy.rle import counts_from_run_lengths, run_lengths_from_counts


def coco_counts(lengths: list[int]) -> bytes:
    counts: bytes = coco_mask.frPyObjects({"size": [sum(lengths), 1], "counts": lengths}, sum(lengths), 1)["counts"]
    return counts


def lengths_of_all_magnitudes() -> st.SearchStrategy[list[int]]:
    one = st.integers(0, 27).flatmap(lambda bits: st.integers(0, 1 << bits))
    return st.lists(one, min_size=1, max_size=14)


@given(lengths_of_all_magnitudes())
@settings(deadline=None, derandomize=True, max_examples=200)
def test_counts_are_those_of_pycocotools(lengths: list[int]) -> None:
    assert counts_from_run_lengths(np.array(lengths)) == coco_counts(lengths)


@given(lengths_of_all_magnitudes())
@settings(deadline=None, derandomize=True, max_examples=200)
def test_run_lengths_come_back(lengths: list[int]) -> None:
    decoded = run_lengths_from_counts(coco_counts(lengths))
    assert decoded is not None
    assert decoded.tolist() == lengths


EDGES = [n + d for bits in range(4, 30, 5) for n in (1 << bits,) for d in (-1, 0, 1)]


@pytest.mark.parametrize("edge", EDGES)
def test_numbers_get_another_character_where_pycocotools_gives_them_one(edge: int) -> None:
    # the fourth run is written as a difference: up by `edge`, then down by as much
    lengths = [edge, 1, 1, 1 + edge, 1, 1, 1]
    assert max(accumulate(lengths)) < 1 << 32
    assert counts_from_run_lengths(np.array(lengths)) == coco_counts(lengths)


@pytest.mark.parametrize("text", [b"", b"P", b"/", b"\xff", b"PPPPPPP0"], ids=repr)
def test_text_that_is_none_is_not_read(text: bytes) -> None:
    assert run_lengths_from_counts(text) is None
