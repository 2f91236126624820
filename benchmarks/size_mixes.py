"""Batches of streams of mixed image sizes on a GPU, by the policies alone; nothing is timed.

    python -m benchmarks.size_mixes [--out benchmarks/results/size_mixes.json]

Beside the mean batch: the largest possible one if no image waits for more than 64 further ones, and about the largest
possible one if 64 images wait at a time (of policies with fixed batch sizes of each shape).
"""

from collections.abc import Sequence
from typing import Any

from benchmarks.targets import Target, parser_of, write_results
from condinst_deploy.runtime.predictor_options import MOST_WAITING
from tests.support.size_mixes import (
    BATCH,
    IMAGES,
    MIXES,
    Shape,
    anything,
    batches_of,
    fewest_batches,
    graphs_of,
    mean_batch_of_places,
    stream_of,
)

SEED = 1


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
