"""Batches of streams of mixed image sizes on a GPU, by the policies alone; nothing is timed.

    python -m benchmarks.size_mixes [--out benchmarks/results/size_mixes.json]

Beside the mean batch: the largest possible one if no image waits for more than 64 further ones, and about the largest
possible one if 64 images wait at a time (of policies with fixed batch sizes of each shape).
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.targets import Target, parser_of, write_results
from condinst_deploy.runtime.batching import BatchingPolicy, rounded_batch
from condinst_deploy.runtime.hot_shapes import HotLimits, HotShapes
from condinst_deploy.runtime.predictor_options import MOST_WAITING, batching_for
from tests.support.size_mixes import MIXES, Shape, anything, fewest_batches, mean_batch_of_places, stream_of

IMAGES, SETTLING, BATCH = 20_000, 1_000, 8
SEED = 1


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


def of_mix(shapes: Sequence[Shape]) -> dict[str, Any]:
    """What the table shows of a stream."""
    batches = batches_of(shapes)
    made, replayed = graphs_of(batches)
    return {
        "shapes": len(set(shapes)),
        "mean_batch": round(len(shapes) / len(batches), 2),
        "replayed_percent": round(100 * replayed / len(batches)),
        "contexts_and_graphs_made": 2 * made,
        "best_of_wait": round(len(shapes) / fewest_batches(shapes, BATCH, MOST_WAITING), 2),
        "best_of_places": round(mean_batch_of_places(shapes, BATCH, MOST_WAITING), 2),
    }


def main() -> None:
    """Replay, print, and write JSON where asked to."""
    given = parser_of(__doc__).parse_args()
    mixes = {
        name: of_mix(stream_of(mix, IMAGES, SEED)) for name, mix in (MIXES | {"sides 64 to 4,000": anything}).items()
    }
    frequent = [mixes[name] for name in MIXES]
    targets = [
        Target.at_least("smallest mean batch of 8", min(row["mean_batch"] for row in frequent), 4, "images"),
        Target.at_least("smallest share of replays", min(row["replayed_percent"] for row in frequent), 60, "%"),
        Target.at_most(
            "most contexts and graphs made after 1,000 images",
            max(row["contexts_and_graphs_made"] for row in mixes.values()),
            40,
            "",
        ),
    ]
    write_results(given.out, targets, {"images": IMAGES, "seed": SEED, "mixes": mixes})


if __name__ == "__main__":
    main()
