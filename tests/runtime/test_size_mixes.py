"""Batches and graphs of streams of other size mixes than the recorded one, by the policy alone.

`tests/runtime/tensorrt/test_size_mix.py` has the recorded mix, with memory and contexts.
"""

import pytest

from tests.support.size_mixes import (
    BATCH,
    IMAGES,
    MIXES,
    NO_FREQUENT_SHAPE,
    ORDERED,
    anything,
    batches_of,
    drifting,
    fewest_batches,
    graphs_of,
    mean_batch_of_places,
    ordered_stream,
    recorded,
    stream_of,
)

MOST_MADE, LEAST_MEAN, LEAST_REPLAYED = 40, 4.0, 0.6


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", MIXES)
def test_batches_are_half_full_and_most_replay_a_graph(name: str, seed: int) -> None:
    batches = batches_of(stream_of(MIXES[name], IMAGES, seed))
    made, replayed = graphs_of(batches)
    assert sum(images for _, images in batches) == IMAGES
    assert IMAGES / len(batches) >= LEAST_MEAN
    assert replayed / len(batches) >= LEAST_REPLAYED
    assert 2 * made <= MOST_MADE  # a graph has its own context


@pytest.mark.parametrize("seed", [11, 12])
@pytest.mark.parametrize("name", ORDERED)
def test_streams_in_an_order_of_their_own_have_half_full_batches_and_replays(name: str, seed: int) -> None:
    batches = batches_of(ordered_stream(ORDERED[name], IMAGES, seed))
    made, replayed = graphs_of(batches)
    assert IMAGES / len(batches) >= LEAST_MEAN
    assert replayed / len(batches) >= LEAST_REPLAYED
    assert 2 * made <= MOST_MADE


@pytest.mark.parametrize("name", NO_FREQUENT_SHAPE)
def test_where_hardly_any_policy_makes_half_full_batches_ours_is_near_it(name: str) -> None:
    shapes = ordered_stream(NO_FREQUENT_SHAPE[name], IMAGES, 11)
    batches = batches_of(shapes)
    made, replayed = graphs_of(batches)
    assert IMAGES / len(batches) >= 0.9 * mean_batch_of_places(shapes, BATCH, 64)
    assert replayed / len(batches) >= LEAST_REPLAYED
    assert 2 * made <= MOST_MADE


def test_sizes_that_do_not_come_again_cost_replays_and_no_graphs() -> None:
    """Twenty graphs cannot replay 60 % of a stream in which each shape stays for a while."""
    batches = batches_of(ordered_stream(drifting, IMAGES, 11))
    made, _ = graphs_of(batches)
    assert IMAGES / len(batches) >= LEAST_MEAN
    assert 2 * made <= MOST_MADE


def test_without_any_frequent_shape_few_graphs_are_made_and_batches_are_near_the_best() -> None:
    shapes = stream_of(anything, IMAGES, 1)
    batches = batches_of(shapes)
    made, _ = graphs_of(batches)
    assert 2 * made <= MOST_MADE
    assert IMAGES / len(batches) >= 0.9 * mean_batch_of_places(shapes, BATCH, 64)


def test_no_policy_makes_half_full_batches_if_no_image_waits_for_more_than_64() -> None:
    assert IMAGES / fewest_batches(stream_of(recorded, IMAGES, 1), BATCH, 64) < LEAST_MEAN


@pytest.mark.parametrize(
    ("shapes", "wait", "batches"),
    [("aaaa", 9, 2), ("abab", 2, 2), ("abab", 1, 4), ("abba", 2, 3), ("", 9, 0)],
)
def test_the_best_batches_of_a_bounded_wait(shapes: str, wait: int, batches: int) -> None:
    assert fewest_batches(shapes, 2 if shapes == "aaaa" else 8, wait) == batches


def test_places_go_to_frequent_shapes_first() -> None:
    shapes = "aaab" * 10
    assert mean_batch_of_places(shapes, 8, 0) == pytest.approx(1)
    assert mean_batch_of_places(shapes, 8, 1) == pytest.approx(1 / (0.25 + 0.75 / 3))
    assert mean_batch_of_places(shapes, 8, 7) == pytest.approx(8)
