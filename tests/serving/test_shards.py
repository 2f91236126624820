from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condinst_deploy.errors import ConfigError
from condinst_deploy.serving.batch.shards import (
    LARGEST_SHARD,
    PathSpan,
    RowSpan,
    Shard,
    Span,
    check_shard_size,
    shard_count,
    shards_of,
)

LENGTHS = st.lists(st.integers(1, 9), max_size=12)


def flattened(spans: list[Span]) -> list[str]:
    """One text for each image."""
    texts: list[str] = []
    for span in spans:
        texts += (
            span.paths if isinstance(span, PathSpan) else [f"{span.file}{span.first + i}" for i in range(len(span))]
        )
    return texts


def spans_of(lengths: list[int], rows: bool) -> list[Span]:
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    if rows:
        return [RowSpan(f"f{i}-", 0, length) for i, length in enumerate(lengths)]
    return [PathSpan(tuple(f"p{j}" for j in range(s, s + n))) for s, n in zip(starts, lengths, strict=True)]


@given(lengths=LENGTHS, size=st.integers(1, 11), rows=st.booleans())
def test_shards_are_the_input_in_order_and_all_but_the_last_are_full(lengths: list[int], size: int, rows: bool) -> None:
    spans = spans_of(lengths, rows)
    shards = list(shards_of(iter(spans), size))
    assert flattened(list(chain.from_iterable(shard.spans for shard in shards))) == flattened(spans)
    assert [shard.index for shard in shards] == list(range(shard_count(sum(lengths), size)))
    assert [shard.first for shard in shards] == [size * i for i in range(len(shards))]
    assert all(len(shard) == size for shard in shards[:-1])
    assert all(0 < len(shard) <= size for shard in shards)


def test_a_shard_can_span_files() -> None:
    first, second = shards_of(iter([RowSpan("a", 0, 3), RowSpan("b", 0, 4)]), 5)
    assert first == Shard(0, 0, (RowSpan("a", 0, 3), RowSpan("b", 0, 2)))
    assert second == Shard(1, 5, (RowSpan("b", 2, 2),))


@pytest.mark.parametrize("size", [0, -1, LARGEST_SHARD + 1])
def test_a_shard_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"the shard size is {size}; expected 1 to {LARGEST_SHARD}"):
        check_shard_size(size)
