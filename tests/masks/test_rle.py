"""COCO's compressed run lengths against pycocotools."""

from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from condinst_deploy.masks.rle import counts_from_runs, run_lengths_from_counts


def coco_counts(lengths: list[int]) -> bytes:
    counts: bytes = coco_mask.frPyObjects({"size": [sum(lengths), 1], "counts": lengths}, sum(lengths), 1)["counts"]
    return counts


def lengths_of_all_magnitudes() -> st.SearchStrategy[list[int]]:
    one = st.integers(0, 27).flatmap(lambda bits: st.integers(1, 1 << bits))
    return st.lists(one, min_size=1, max_size=14)


def runs_of(lengths: list[int]) -> np.ndarray[Any, Any]:
    """Starts and ends; the last of an odd number of lengths are the zeros at the end."""
    return np.cumsum(lengths)[: len(lengths) // 2 * 2].astype(np.int64)


@given(st.lists(lengths_of_all_magnitudes(), min_size=1, max_size=4))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_counts_of_several_masks_are_those_of_pycocotools(masks: list[list[int]]) -> None:
    pixels = max(sum(lengths) for lengths in masks)
    texts = [coco_counts(completed(lengths, pixels)) for lengths in masks]
    assert counts_from_runs([runs_of(lengths) for lengths in masks], pixels) == texts


def completed(lengths: list[int], pixels: int) -> list[int]:
    """Up to the image's last pixel."""
    left = pixels - sum(lengths)
    if len(lengths) % 2:
        return [*lengths[:-1], lengths[-1] + left]
    return [*lengths, left] if left else lengths


@pytest.mark.parametrize("large", [0.0, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_numbers_of_many_characters_may_be_few_or_all(large: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    masks = []
    for size in (0, 1, 2, 0, 3, 200, 4, 5, 301, 0):
        lengths = rng.integers(1, 500, size)
        at = rng.random(size) < large
        lengths[at] = rng.integers(1, 1 << rng.integers(1, 26, at.sum()))
        masks.append(lengths.tolist())
    pixels = max(sum(lengths) for lengths in masks)
    texts = [coco_counts(completed(lengths, pixels)) if lengths else coco_counts([pixels]) for lengths in masks]
    assert counts_from_runs([runs_of(lengths) for lengths in masks], pixels) == texts


def test_masks_of_no_runs_are_zeros() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert counts_from_runs([none, none], 12) == [coco_counts([12])] * 2
    assert counts_from_runs([], 12) == []


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
    assert counts_from_runs([runs_of(lengths)], sum(lengths)) == [coco_counts(lengths)]


@pytest.mark.parametrize("text", [b"", b"P", b"/", b"\xff", b"PPPPPPP0"], ids=repr)
def test_text_that_is_none_is_not_read(text: bytes) -> None:
    assert run_lengths_from_counts(text) is None
