"""What masks cost on the host when a GPU finds their runs: from downloaded arrays to RLE bytes, for one image.

    python -m benchmarks.mask_runs [--out benchmarks/results/mask_runs.json]

It needs no GPU. What the kernels give for the 100 instances of `benchmarks.masks`' objects is replayed: the arrays that
cross are taken apart into `Masks`, which checks them, and encoded. In Triton's interpreter the kernels' arrays are the
host's byte for byte (`tests/kernels/test_runs.py`), so the host makes them here; `--interpret` lets the kernels make
them, which takes half an hour and more. Times are processor
time of the one thread: medians over rounds that take turns among copies of the arrays, so that these are not always in
the cache.
"""

import statistics
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.masks import ORIGINALS, Case
from benchmarks.targets import Target, parser_of, write_results
from condinst_deploy.contract import ImageGeometry
from condinst_deploy.kernels.runs_launch import runs_of_masks
from condinst_deploy.masks import Masks
from condinst_deploy.runtime.postprocess import masks_from_logits, masks_from_runs
from tests.support.interpreter import interpreted

LIMITS = {"1333x800": 1.0, "4000x3000": 3.0}
"""Milliseconds of an image."""

COPIES = 8
ROUNDS = 400

Turn = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]
"""Runs of several masks one behind the other, and how many starts and ends each has."""


def main() -> None:
    """Measure, print, and write JSON where asked to."""
    parser = parser_of(__doc__)
    parser.add_argument("--originals", nargs="+", choices=ORIGINALS, default=list(LIMITS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--interpret", action="store_true", help="run the kernels in Triton's interpreter")
    arguments = parser.parse_args()
    rows = []
    for original in arguments.originals:
        rows.append(row(Case("objects", original), arguments.rounds, interpret=arguments.interpret))
        print(rows[-1], flush=True)
    write_results(arguments.out, targets_of(rows), {"rows": rows})


def targets_of(rows: list[dict[str, Any]]) -> list[Target]:
    """What was asked of each size."""
    targets = []
    for each in rows:
        name, measured = f"host work an image, 100 masks, {each['original']}", each["median_ms"]
        limit = LIMITS.get(each["original"])
        targets.append(
            Target.without(name, measured, "ms") if limit is None else Target.at_most(name, measured, limit, "ms")
        )
        if each["interpreted"]:
            unlike = f"masks unlike the host's, {each['original']}"
            targets.append(Target.at_most(unlike, each["unlike_host"], 0, "masks"))
    return targets


def row(case: Case, rounds: int, *, interpret: bool = False) -> dict[str, Any]:
    """Times of one case, in milliseconds, and how many masks are unlike the host's."""
    geometry, logits = case.geometry, case.logits()
    host = masks_from_logits(logits, np.arange(len(logits)), geometry)
    turns = interpreted_turns(logits, geometry) if interpret else [turn_of(host)]
    found = masks_of(turns, geometry)
    unlike = sum(not np.array_equal(ours, theirs) for ours, theirs in zip(found.runs, host.runs, strict=True))
    starts_and_ends = sum(len(runs) for runs in found.runs)
    return {
        "original": case.original,
        "interpreted": interpret,
        "unlike_host": unlike,
        "runs": starts_and_ends // 2,
        "crossing_bytes": 8 * starts_and_ends,
        "rle_bytes": sum(len(rle["counts"]) for rle in found.rle()),
        **times(turns, geometry, rounds),
    }


def times(turns: list[Turn], geometry: ImageGeometry, rounds: int) -> dict[str, float]:
    """Medians over the rounds."""
    copies = [[(runs.copy(), totals.copy()) for runs, totals in turns] for _ in range(COPIES)]
    masks_ms, all_ms = [], []
    for i in range(rounds):
        # a server frees decoded images all the time, and so malloc keeps memory in the process
        np.full((*geometry.original, 3), i % 256, dtype=np.uint8)
        started = time.thread_time()
        masks = masks_of(copies[i % COPIES], geometry)
        made = time.thread_time()
        masks.rle()
        ended = time.thread_time()
        masks_ms.append(1e3 * (made - started))
        all_ms.append(1e3 * (ended - started))
    return {
        "median_ms": round(statistics.median(all_ms), 3),
        "p10_ms": round(float(np.percentile(all_ms, 10)), 3),
        "p90_ms": round(float(np.percentile(all_ms, 90)), 3),
        "masks_ms": round(statistics.median(masks_ms), 3),
    }


def masks_of(turns: list[Turn], geometry: ImageGeometry) -> Masks:
    """Masks of one image, as backends make them from what crossed."""
    runs = (each for turn in turns for each in runs_of_masks(*turn))
    count = sum(len(totals) for _, totals in turns)
    (masks,) = masks_from_runs(runs, [np.arange(count)], [geometry])
    return masks


def turn_of(masks: Masks) -> Turn:
    """Masks as they cross."""
    return np.concatenate(masks.runs), np.array([len(runs) for runs in masks.runs], dtype=np.int32)


def interpreted_turns(logits: npt.NDArray[np.float32], geometry: ImageGeometry) -> list[Turn]:
    """What the kernels give, in Triton's interpreter."""
    sizes = (geometry.original, geometry.resized, geometry.padded)
    (found,) = interpreted([("benchmarks.mask_runs:kernels_results", (torch.from_numpy(logits[None]), sizes))])
    return [(runs.numpy(), totals.numpy()) for runs, totals in found]


def kernels_results(logits: Tensor, sizes: Any) -> list[tuple[Tensor, Tensor]]:
    """Runs and totals of each turn; runs where the interpreter is on."""
    from condinst_deploy.kernels.extents import mask_extents
    from condinst_deploy.kernels.runs import mask_runs
    from condinst_deploy.kernels.runs_launch import launches
    from condinst_deploy.runtime.mask_crops import mask_crops

    slots = [np.arange(logits.shape[1])]
    found = mask_crops(mask_extents(logits).numpy(), slots, [ImageGeometry(*sizes)], tuple(logits.shape))
    results = (mask_runs(logits, launch, found.columns) for launch in launches(found))
    return [(runs, torch.from_numpy(totals)) for runs, totals in results]


if __name__ == "__main__":
    main()
