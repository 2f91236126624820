"""Bytes of the masks of one answer: COCO RLE, bit-packed crops and dense masks.

    python -m benchmarks.mask_transport --out benchmarks/results/mask_transport.json

The masks are those of `benchmarks.masks`: 100 uneven objects from a seed, areas from 0.6 % to 40 % of the image. Bytes
are those of the server's answer: an RLE has 4 bytes for its length, a crop 16 bytes for its window. CPU time is what
making the bytes from `Masks` takes, without the network; medians of the rounds.
"""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from benchmarks.masks import INSTANCES, SEED, Case, ours
from benchmarks.serving_tables import transport_table
from benchmarks.targets import Target, parser_of, write_results
from benchmarks.timing import Turns
from condinst_deploy.masks import Masks

SIZES = ("640x480", "1920x1080", "4000x3000")
LENGTH, WINDOW = 4, 16
"""Bytes of a text's length, and of a crop's window as four integers."""


def masks_of(size: str, instances: int = INSTANCES) -> Masks:
    """Masks of an image of `WIDTHxHEIGHT`."""
    case = Case("objects", size, instances)
    return ours(case.logits(), case.geometry)


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
    for name in SIZES:
        masks = masks_of(name)
        found = {form: make(masks) for form, make in FORMS.items()}  # warms up
        turns = Turns({form: partial(make, masks) for form, make in FORMS.items()})
        for _ in turns.rounds(rounds):
            pass
        rows += [
            {"size": name, "form": form, "bytes": found[form], "cpu_ms": round(1000 * median(turns.cpu[form]), 2)}
            for form in FORMS
        ]
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table and write JSON where asked to."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parsed = parser.parse_args(arguments)
    rows = rows_of(parsed.rounds)
    targets = [
        Target.without(f"{INSTANCES} masks of {row['size']} as {row['form']}", row["bytes"] / 1e3, "KB") for row in rows
    ]
    write_results(parsed.out, targets, {"seed": SEED, "instances": INSTANCES, "rows": rows})
    print(transport_table({"rows": rows}))


if __name__ == "__main__":
    main()
