"""Mixes of image sizes, streams of them, their batches and graphs, and the best batches that a bounded wait allows."""

import json
import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from heapq import heapify, heappop, heappush
from pathlib import Path

from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.runtime.batching import BatchingPolicy, rounded_batch
from condinst_deploy.runtime.hot_shapes import HotLimits, HotShapes
from condinst_deploy.runtime.predictor_options import batching_for

Rows = list[tuple[int, int, float]]
"""Width, height and weight."""

Shape = tuple[int, int]
"""Padded height and width."""

IMAGES, SETTLING, BATCH = 20_000, 1_000, 8

RECORDED = Path(__file__).parents[1] / "runtime/tensorrt/image_sizes.json"

USUAL: Rows = [(640, 480, 40), (640, 427, 20), (480, 640, 14), (640, 426, 12), (500, 375, 6), (427, 640, 8)]

DISTINCT = 600
"""Unusual sizes of a mix."""


def recorded(_: random.Random) -> Rows:
    return [(width, height, count) for width, height, count in json.loads(RECORDED.read_text())["sizes"]]


def landscape(rng: random.Random) -> Rows:
    usual: Rows = [(640, 480, 46), (640, 427, 20), (640, 426, 14), (500, 375, 7), (640, 425, 4)]
    return usual + [(640, rng.randint(300, 520), 0.15) for _ in range(60)]


def portrait(rng: random.Random) -> Rows:
    usual: Rows = [(480, 640, 55), (427, 640, 20), (426, 640, 15), (425, 640, 6), (375, 500, 8), (333, 500, 3)]
    return usual + [(rng.randint(300, 480), 640, 0.3) for _ in range(150)]


def phones(_: random.Random) -> Rows:
    four_to_three: Rows = [(4032, 3024, 40), (3024, 4032, 35), (4000, 3000, 8), (3000, 4000, 5), (3264, 2448, 3)]
    return [*four_to_three, (4032, 2268, 4), (2268, 4032, 4), (1080, 1920, 1)]


def video(_: random.Random) -> Rows:
    return [(1920, 1080, 50), (1280, 720, 30), (3840, 2160, 10), (640, 360, 10), (854, 480, 5)]


def partly_unusual(rng: random.Random, share: float) -> Rows:
    """The usual sizes, and a share of images of 640 by anything."""
    total = sum(row[2] for row in USUAL)
    sides = [rng.randint(200, 640) for _ in range(DISTINCT)]
    unusual = [(640, side) if rng.random() < 0.6 else (side, 640) for side in sides]
    usual = [(width, height, weight / total * (1 - share)) for width, height, weight in USUAL]
    return usual + [(width, height, share / DISTINCT) for width, height in unusual]


def a_third_unusual(rng: random.Random) -> Rows:
    return partly_unusual(rng, 1 / 3)


def forty_percent_unusual(rng: random.Random) -> Rows:
    return partly_unusual(rng, 0.4)


def half_unusual(rng: random.Random) -> Rows:
    return partly_unusual(rng, 0.5)


def panoramas(rng: random.Random) -> Rows:
    usual: Rows = [(4032, 3024, 30), (3024, 4032, 20), (1920, 1080, 15)]
    return usual + [(rng.randint(4000, 12000), rng.randint(900, 3000), 0.175) for _ in range(200)]


def crops(rng: random.Random) -> Rows:
    """Cut-outs of usual ratios, a few percent off."""
    rows: Rows = []
    for _ in range(3000):
        width = rng.randint(100, 1000)
        ratio = rng.choice([1, 1, 0.75, 1.33, 0.66, 1.5]) * rng.uniform(0.95, 1.05)
        rows.append((width, int(width * ratio), 1))
    return rows


def heavy_tail(rng: random.Random) -> Rows:
    rows: Rows = []
    for i in range(2000):
        width = 640 * rng.lognormvariate(0, 0.6)
        height = width * rng.lognormvariate(-0.25, 0.35)
        rows.append((min(4000, max(64, int(width))), min(4000, max(64, int(height))), (i + 1) ** -1.1))
    return rows


def anything(rng: random.Random) -> Rows:
    return [(rng.randint(64, 4000), rng.randint(64, 4000), 1) for _ in range(20_000)]


MIXES: dict[str, Callable[[random.Random], Rows]] = {
    "recorded, a quarter unusual": recorded,
    "a third unusual": a_third_unusual,
    "40 % unusual": forty_percent_unusual,
    "half unusual": half_unusual,
    "landscape": landscape,
    "portrait": portrait,
    "phones, 4:3 either way up": phones,
    "video, 16:9": video,
    "a third panoramas": panoramas,
    "crops of any ratio": crops,
    "heavy tail of sizes and ratios": heavy_tail,
}
"""Mixes in which some shapes are frequent."""


Sizes = list[tuple[int, int]]
"""Width and height of each image of a stream."""


def one_size(_: random.Random, images: int) -> Sizes:
    return [(640, 480)] * images


def two_sizes_in_turn(_: random.Random, images: int) -> Sizes:
    return [((640, 480), (480, 640))[i % 2] for i in range(images)]


def bursts(rng: random.Random, images: int) -> Sizes:
    """One camera after the other, up to 120 images each."""
    sizes: Sizes = []
    while len(sizes) < images:
        size = (rng.choice([640, 1280, 1920, 1024]), rng.choice([480, 720, 1080, 768, 360, 640]))
        sizes += [size] * rng.randint(1, 120)
    return sizes[:images]


def short_bursts(rng: random.Random, images: int) -> Sizes:
    """Albums of up to six images of one size, of sixty sizes."""
    usual = [(rng.randint(300, 1500), rng.randint(300, 1500)) for _ in range(60)]
    sizes: Sizes = []
    while len(sizes) < images:
        sizes += [rng.choice(usual)] * rng.randint(1, 6)
    return sizes[:images]


def other_sizes_by_and_by(rng: random.Random, images: int) -> Sizes:
    """Three kinds of images, each for a sixth of the stream and then again."""
    kinds: list[Sizes] = [
        [(640, 480), (640, 427), (480, 640), (500, 375)],
        [(1080, 1920), (720, 1280), (4032, 3024)],
        [(rng.randint(300, 900), rng.randint(300, 900)) for _ in range(12)],
    ]
    return [rng.choice(kinds[i * 6 // images % 3]) for i in range(images)]


def a_camera_now_and_then(rng: random.Random, images: int) -> Sizes:
    """The recorded mix, and one size for 700 images in turn."""
    rows = recorded(rng)
    mixed = rng.choices(rows, [row[2] for row in rows], k=images)
    return [(1280, 720) if i // 700 % 2 else (int(row[0]), int(row[1])) for i, row in enumerate(mixed)]


ORDERED: dict[str, Callable[[random.Random, int], Sizes]] = {
    "one size": one_size,
    "two sizes in turn": two_sizes_in_turn,
    "bursts of up to 120": bursts,
    "bursts of up to 6": short_bursts,
    "other sizes by and by": other_sizes_by_and_by,
    "a camera now and then": a_camera_now_and_then,
}
"""Streams whose order is not random."""


def drifting(rng: random.Random, images: int) -> Sizes:
    """Sizes that come, stay for some hundreds of images, and do not come again."""
    sizes = [(rng.randint(300, 1500), rng.randint(300, 1500)) for _ in range(200)]
    return [sizes[min(199, int(i / images * 180) + int(rng.expovariate(1 / 4)))] for i in range(images)]


def one_side_of_640(rng: random.Random, images: int) -> Sizes:
    """The other side is anything from 320."""
    sides = [rng.randint(320, 640) for _ in range(images)]
    return [(640, side) if rng.random() < 0.5 else (side, 640) for side in sides]


def four_hundred_sizes(rng: random.Random, images: int) -> Sizes:
    """Sizes whose frequencies fall as 1, 1/2, 1/3 and so on."""
    sizes = [(rng.randint(200, 2000), rng.randint(200, 2000)) for _ in range(400)]
    return rng.choices(sizes, [1 / (i + 1) for i in range(400)], k=images)


NO_FREQUENT_SHAPE: dict[str, Callable[[random.Random, int], Sizes]] = {
    "640 by anything": one_side_of_640,
    "400 sizes": four_hundred_sizes,
}
"""Streams for which no policy makes batches of 4 with 64 images that wait, or hardly one does."""


@cache
def padded(width: int, height: int) -> Shape:
    return ImageGeometry.of((height, width), Preprocessing()).padded


def stream_of(mix: Callable[[random.Random], Rows], images: int, seed: int) -> list[Shape]:
    """Padded shapes of a stream; `seed` changes the order, and leaves the mix as it is."""
    rows = mix(random.Random(7))
    chosen = random.Random(seed).choices(rows, [row[2] for row in rows], k=images)
    return [padded(width, height) for width, height, _ in chosen]


def ordered_stream(sizes: Callable[[random.Random, int], Sizes], images: int, seed: int) -> list[Shape]:
    """Padded shapes of a stream in its order."""
    return [padded(*size) for size in sizes(random.Random(seed), images)]


def fewest_batches(shapes: Sequence[Hashable], batch_size: int, longest_wait: int) -> int:
    """Batches of the best policy that lets no image wait for more than `longest_wait` further ones.

    Shapes do not compete here, and for one shape it is best to run a batch as late as it may.
    """
    waiting: dict[Hashable, tuple[int, int]] = {}  # first image, images
    batches = 0
    for i, shape in enumerate(shapes):
        first, images = waiting.get(shape, (i, batch_size))
        if images < batch_size and i - first <= longest_wait:
            waiting[shape] = first, images + 1
        else:
            waiting[shape] = i, 1
            batches += 1
    return batches


def mean_batch_of_places(shapes: Sequence[Hashable], batch_size: int, places: int) -> float:
    """Mean batch of the best policy by fixed batch sizes of each shape that holds `places` images on average.

    Batches of k images of a shape that makes up the share r hold (k - 1) / 2 places on average. The share of batches is
    convex in k, so the places go one by one to where they save most.
    """
    shares = [count / len(shapes) for count in Counter(shapes).values()]
    steps = [(-share / 2, share, 1) for share in shares]
    heapify(steps)
    batches, held = 1.0, 0.0
    while steps and held + 0.5 <= places:
        saved, share, size = heappop(steps)
        batches, held = batches + saved, held + 0.5
        if size + 1 < batch_size:
            heappush(steps, (-share / ((size + 1) * (size + 2)), share, size + 1))
    return 1 / batches


def batches_of(shapes: Sequence[Shape]) -> list[tuple[Shape, int]]:
    """Padded shape and number of images of each batch of a stream."""
    policy, ran = BatchingPolicy[Shape](batching_for("cuda:0", BATCH, None)), list[list[Shape]]()
    for shape in shapes:
        ran += policy.add(shape, shape)
    return [(batch[0], len(batch)) for batch in [*ran, *policy.flush()]]


def graphs_of(batches: Sequence[tuple[Shape, int]]) -> tuple[int, int]:
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
