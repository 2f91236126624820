"""Batches and graphs of streams of other size mixes than the committed one, by the policy alone.

`tests/runtime/tensorrt/test_size_mix.py` has the committed mix, with memory and contexts.
"""

import random
from collections.abc import Callable
from functools import cache

import pytest

from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.runtime.batching import BatchingPolicy, rounded_batch
from condinst_deploy.runtime.hot_shapes import HotLimits, HotShapes
from condinst_deploy.runtime.predictor_options import batching_for

IMAGES, SETTLING, BATCH = 20_000, 1_000, 8
MOST_MADE, LEAST_MEAN, LEAST_REPLAYED = 40, 4.0, 0.6

Rows = list[tuple[int, int, float]]
"""Width, height and weight."""

Shape = tuple[int, int]


def portrait(rng: random.Random) -> Rows:
    usual = [(480, 640, 55), (427, 640, 20), (426, 640, 15), (425, 640, 6), (375, 500, 8), (333, 500, 3)]
    return [(w, h, 10.0 * n) for w, h, n in usual] + [(rng.randint(300, 480), 640, 3.0) for _ in range(150)]


def video(rng: random.Random) -> Rows:
    return [(1920, 1080, 50), (1280, 720, 30), (3840, 2160, 10), (640, 360, 10), (854, 480, 5)]


def a_third_unusual(rng: random.Random) -> Rows:
    usual = [(640, 480, 40), (640, 427, 20), (480, 640, 14), (640, 426, 12), (500, 375, 6), (427, 640, 8)]
    sides = [rng.randint(200, 640) for _ in range(600)]
    return [*usual, *((640, side, 1 / 12) if rng.random() < 0.6 else (side, 640, 1 / 12) for side in sides)]


def heavy_tail(rng: random.Random) -> Rows:
    rows: Rows = []
    for i in range(2000):
        width = 640 * rng.lognormvariate(0, 0.6)
        height = width * rng.lognormvariate(-0.25, 0.35)
        rows.append((min(4000, max(64, int(width))), min(4000, max(64, int(height))), (i + 1) ** -1.1))
    return rows


def anything(rng: random.Random) -> Rows:
    return [(rng.randint(64, 4000), rng.randint(64, 4000), 1) for _ in range(IMAGES)]


@cache
def padded(width: int, height: int) -> Shape:
    return ImageGeometry.of((height, width), Preprocessing()).padded


def batches_of(rows: Rows, seed: int) -> list[tuple[Shape, int]]:
    """Padded shape and number of images of each batch of a stream."""
    chosen = random.Random(seed).choices(rows, [row[2] for row in rows], k=IMAGES)
    policy, ran = BatchingPolicy[Shape](batching_for("cuda:0", BATCH, None)), list[list[Shape]]()
    for width, height, _ in chosen:
        shape = padded(width, height)
        ran += policy.add(shape, shape)
    return [(batch[0], len(batch)) for batch in [*ran, *policy.flush()]]


def graphs_of(batches: list[tuple[Shape, int]]) -> tuple[int, int]:
    """(Graphs made after the first 1,000 images, batches that replay a graph)."""
    hot, given, made, replayed = HotShapes[tuple[int, Shape]](HotLimits()), 0, 0, 0
    for shape, images in batches:
        key = rounded_batch(images, BATCH), shape
        replayed += key in hot
        if hot.came(key, key[0], shape):
            hot.heat(key)
            made += given >= SETTLING
        given += images
    return made, replayed


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("mix", [portrait, video, a_third_unusual, heavy_tail])
def test_batches_are_half_full_and_most_replay_a_graph(mix: Callable[[random.Random], Rows], seed: int) -> None:
    batches = batches_of(mix(random.Random(7)), seed)
    made, replayed = graphs_of(batches)
    assert sum(images for _, images in batches) == IMAGES
    assert IMAGES / len(batches) >= LEAST_MEAN
    assert replayed / len(batches) >= LEAST_REPLAYED
    assert 2 * made <= MOST_MADE  # a graph has a context of its own


def test_without_any_frequent_shape_few_graphs_are_made_all_the_same() -> None:
    made, _ = graphs_of(batches_of(anything(random.Random(7)), 1))
    assert 2 * made <= MOST_MADE
