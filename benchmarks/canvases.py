"""What a few canvases give and cost: batches of a stream of mixed sizes, and agreement with images padded to 32.

    python -m benchmarks.canvases [--images 100] [--out benchmarks/results/canvases.json]

Batches: the recorded mix of sizes (tests/runtime/tensorrt/image_sizes.json) through the batching policy of a GPU. Cost:
detections of the model that ships on images of the shapes set, padded to a canvas and to multiples of 32, on a CPU.
"""

import json
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.accuracy import accuracy_of, shapes_images
from benchmarks.targets import Target, parser_of, write_results
from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.evaluation.agreement import Agreement, agreement, merged
from condinst_deploy.runtime.batching import BatchingPolicy
from condinst_deploy.runtime.canvases import Canvas, smallest
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.predictor_options import batching_for
from condinst_export.quantization.quantized_agreement import MIN_BOX_IOU
from tests.support.models import SHIPPED
from tests.support.size_mixes import RECORDED

CANVASES: tuple[Canvas, ...] = ((800, 1088), (800, 1216), (800, 1344), (1088, 800), (1216, 800), (1344, 800))
"""For the published sizes of inference, 800 and 1333: 4:3, 3:2 and the longest, either way up."""

THRESHOLDS = (0.0, 0.3)
"""Scores above which detections are compared: all of them, and those that are drawn."""

SLACK = (32, 64)
"""Pixels by which a canvas is larger than an image's own padded size, on both sides."""

DRAWN, BATCH = 20_000, 8


def batches_of(canvases: Sequence[Canvas]) -> dict[str, Any]:
    """Padded shapes, mean batch and padded pixels of a stream."""
    rows = json.loads(RECORDED.read_text())["sizes"]
    policy = BatchingPolicy[int](batching_for("cuda:0", BATCH, None))
    made: list[int] = []
    shapes, pixels = set(), 0
    for width, height, _ in random.Random(0).choices(rows, [row[2] for row in rows], k=DRAWN):
        own = ImageGeometry.of((height, width), Preprocessing()).padded
        padded = smallest(canvases, own)
        shapes.add(padded)
        pixels += padded[0] * padded[1]
        made += map(len, policy.add(padded, 0))
    made += map(len, policy.flush())
    return {"shapes": len(shapes), "mean_batch": float(np.mean(made)), "pixels": pixels}


def costs(count: int) -> dict[int, list[Agreement]]:
    """Pixels of slack -> agreement with images padded to multiples of 32, above each of `THRESHOLDS`."""
    images = shapes_images(count)
    with Predictor(SHIPPED, device="cpu") as reference:
        expected = [reference(image)[0] for image in images]
        owns = [reference.backend.geometry(image).padded for image in images]
        backend, found = reference.backend, {}
        for slack in SLACK:
            compared: list[list[Agreement]] = [[] for _ in THRESHOLDS]
            for own, image, want in zip(owns, images, expected, strict=True):
                other = Predictor(backend, canvases=[(own[0] + slack, own[1] + slack)])(image)[0]
                for above, entries in zip(THRESHOLDS, compared, strict=True):
                    kept = want[want.scores > above], other[other.scores > above]
                    entries.append(agreement(kept[0], kept[1], MIN_BOX_IOU))
            found[slack] = [merged(entries) for entries in compared]
    return found


def main() -> None:
    """Measure, print, and write JSON where asked to."""
    parser = parser_of(__doc__)
    parser.add_argument("--images", type=int, default=100)
    given = parser.parse_args()
    own, few = batches_of(()), batches_of(CANVASES)
    targets = [
        Target.without("padded shapes, multiples of 32", own["shapes"], "shapes"),
        Target.without(f"padded shapes, {len(CANVASES)} canvases", few["shapes"], "shapes"),
        Target.without("mean batch of 8, multiples of 32", own["mean_batch"], "images"),
        Target.without(f"mean batch of 8, {len(CANVASES)} canvases", few["mean_batch"], "images"),
        Target.without("pixels that the network computes, canvases", few["pixels"] / own["pixels"], "times"),
    ]
    for slack, agreements in costs(given.images).items():
        for above, found in zip(THRESHOLDS, agreements, strict=True):
            name = f"canvas {slack} px larger on both sides, scores above {above:g}"
            cost = accuracy_of(found)
            targets += [
                Target.without(f"matched, {name}", 100 * cost["matched_share"], "%"),
                Target.without(f"median mask IoU, {name}", cost["median_mask_iou"], ""),
                Target.without(f"median error of a score, {name}", cost["median_score_error"], ""),
            ]
    write_results(given.out, targets, {"images": given.images, "canvases": CANVASES})


if __name__ == "__main__":
    main()
