"""Bytes of the masks of one answer: COCO RLE, bit-packed crops and dense masks.

    python -m benchmarks.mask_transport --out benchmarks/results/mask_transport.json

The masks are those of `benchmarks.masks`: 100 uneven objects from a seed, areas from 0.6 % to 40 % of the image. Bytes
are those of the server's answer: an RLE has 4 bytes for its length, a crop 16 bytes for its window. CPU time is what
making the bytes from `Masks` takes, without the network; medians of the rounds.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.masks import INSTANCES, NETWORK, SEED, objects, ours
from benchmarks.serving_tables import transport_table
from benchmarks.targets import Target, write_results
from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.masks import Masks

SIZES = {"640x480": (480, 640), "1920x1080": (1080, 1920), "4000x3000": (3000, 4000)}
LENGTH, WINDOW = 4, 16
"""Bytes of a text's length, and of a crop's window as four integers."""


def masks_of(size: tuple[int, int], instances: int = INSTANCES) -> Masks:
    """Masks of an image of `(height, width)`."""
    geometry = ImageGeometry.of(size, Preprocessing(), canvas=NETWORK)
    frame = tuple(-(-side // 8) for side in geometry.resized)
    logits = np.full((instances, NETWORK[0] // 8, NETWORK[1] // 8), -8, dtype=np.float32)
    logits[:, : frame[0], : frame[1]] = objects(np.random.default_rng(SEED), instances, (frame[0], frame[1]))
    return ours(logits, geometry)


def rle_bytes(masks: Masks) -> int:
    """What the server sends."""
    return sum(len(rle["counts"]) + LENGTH for rle in masks.rle())


def crop_bytes(masks: Masks) -> int:
    """One bit a pixel of the smallest rectangle around each mask."""
    return sum(np.packbits(crop).nbytes + WINDOW for crop in masks.crops)


def dense_bytes(masks: Masks) -> int:
    """One byte a pixel of the whole image; made one mask at a time, which takes no more time and less memory."""
    return sum(np.asarray(mask, dtype=np.uint8).nbytes for mask in masks)


FORMS: dict[str, Callable[[Masks], int]] = {
    "COCO RLE": rle_bytes,
    "bit-packed crops": crop_bytes,
    "dense": dense_bytes,
}


def rows_of(rounds: int) -> list[dict[str, Any]]:
    """Bytes and CPU milliseconds of every form at every size."""
    rows = []
    for name, size in SIZES.items():
        masks, spent = masks_of(size), {form: list[float]() for form in FORMS}
        found = {form: make(masks) for form, make in FORMS.items()}  # warms up
        for _ in range(rounds):
            for form, make in FORMS.items():
                started = time.process_time()
                make(masks)
                spent[form].append(1000 * (time.process_time() - started))
        rows += [
            {"size": name, "form": form, "bytes": found[form], "cpu_ms": round(median(spent[form]), 2)}
            for form in FORMS
        ]
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the results")
    parser.add_argument("--rounds", type=int, default=5)
    parsed = parser.parse_args(arguments)
    rows = rows_of(parsed.rounds)
    targets = [
        Target.without(f"{INSTANCES} masks of {row['size']} as {row['form']}", row["bytes"] / 1e3, "KB") for row in rows
    ]
    if parsed.out:
        write_results(parsed.out, targets, {"seed": SEED, "instances": INSTANCES, "rows": rows})
    print(transport_table({"rows": rows}))


if __name__ == "__main__":
    main()
