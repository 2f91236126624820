"""Where the limits of a GPU server are: images a second that each of its parts allows, by arithmetic.

    python -m benchmarks.server_model [--out benchmarks/results/server_model.json]
    python -m benchmarks.server_model --recompute    # the same file, after a change of estimates

Decoding and the copy to pinned memory are measured here, with one thread, and the host's work for masks is read from
benchmarks/results/mask_runs.json. Bytes follow from the sizes. What a GPU and its bus do is estimated (`ESTIMATES`):
nothing of this toolkit has run on one. Cores and threads are those of the aims, an H100 or H200 with 16 cores.
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.markdown import RESULTS, content_of
from benchmarks.targets import Target, parser_of, results_of, write_results
from benchmarks.timing import median_ms
from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.imaging.encoded_image import EncodedImage
from condinst_deploy.runtime.coco_results import write_json
from condinst_deploy.runtime.decoded_image import DecodedLayout
from condinst_deploy.runtime.predictor_options import MOST_FINISHERS
from tests.support.photographs import photograph

ORIGINALS = {"640x480": (640, 480), "1333x800": (1333, 800), "4000x3000": (4000, 3000)}
MASKS = {"640x480": "1333x800", "1333x800": "1333x800", "4000x3000": "4000x3000"}
"""Original -> the row of mask_runs.json that stands for it; that of a smaller one is a bound."""

CORES, ROUNDS = 16, 15


@dataclass(frozen=True)
class Estimates:
    """Speeds of an H100 that were not measured here."""

    bus_gb_s: float = 25.0  # PCIe 4.0 x16, pinned memory, one direction; 5.0 has twice as much
    network_ms: float = 1.1  # of an image, TensorRT FP16, batch 8, 800x1344: 463 GFLOP at 53 % of 790 TFLOP/s
    gpu_memory_gb_s: float = 3350.0  # of an H100's data sheet; resizing reads and writes once
    selection_ms: float = 0.05  # 5,000 candidates, 100 instances: instructions counted, see decision 70
    mask_head_ms: float = 0.012  # the target for 100 instances
    runs_ms: float = 0.065  # extents 0.005, then the target for the four kernels that find runs at 1333x800


ESTIMATES = Estimates()


def limits(parts: dict[str, float], estimates: Estimates = ESTIMATES) -> dict[str, float]:
    """Images a second that each part allows.

    Args:
        parts: of one image: decode_ms and copy_ms of one thread, masks_ms of one thread, up_bytes, down_bytes.
        estimates: of the GPU.
    """
    resize_ms = 2 * parts["up_bytes"] / estimates.gpu_memory_gb_s / 1e6
    other_ms = estimates.selection_ms + estimates.mask_head_ms + estimates.runs_ms
    return {
        f"decoding, {CORES} cores less {MOST_FINISHERS} for masks": (CORES - MOST_FINISHERS)
        / (parts["decode_ms"] + parts["copy_ms"])
        * 1e3,
        "upload, estimated": estimates.bus_gb_s * 1e9 / parts["up_bytes"],
        "GPU (resize, network, selection, masks), estimated": 1e3 / (resize_ms + estimates.network_ms + other_ms),
        "download, estimated": estimates.bus_gb_s * 1e9 / parts["down_bytes"],
        f"masks on the host, {MOST_FINISHERS} threads": MOST_FINISHERS / parts["masks_ms"] * 1e3,
    }


def measured(original: str, folder: Path) -> dict[str, float]:
    """The parts of one image; see `limits`."""
    path = photograph(folder / f"{original}.jpg", "coffee", ORIGINALS[original])
    encoded = EncodedImage(path.name, path.read_bytes())
    image = rgb_from(encoded)
    layout = DecodedLayout.of(ImageGeometry.of((image.shape[0], image.shape[1]), Preprocessing()))
    memory = np.zeros(layout.nbytes, np.uint8)
    rows = content_of(RESULTS / "mask_runs.json")["rows"]
    masks = next(row for row in rows if row["original"] == MASKS[original])
    return {
        "decode_ms": median_ms(lambda: rgb_from(encoded), ROUNDS, time.thread_time),
        "copy_ms": median_ms(lambda: layout.write(memory, image), ROUNDS, time.thread_time),
        "masks_ms": masks["median_ms"],
        "up_bytes": float(layout.nbytes),
        "down_bytes": float(masks["crossing_bytes"]),
    }


def targets_of(parts: dict[str, dict[str, float]]) -> list[Target]:
    """What was measured, and what follows from it."""
    found = []
    for original, values in parts.items():
        found += [
            Target.without(f"{original}: decoding, one thread, measured", values["decode_ms"], "ms"),
            Target.without(f"{original}: copy to memory, one thread, measured", values["copy_ms"], "ms"),
            Target.without(f"{original}: uploaded", values["up_bytes"] / 1e6, "MB"),
        ]
        by_part = limits(values)
        found += [Target.without(f"{original}: {name}", limit, "images/s") for name, limit in by_part.items()]
        lowest = min(by_part, key=lambda name: by_part[name])
        found.append(Target.without(f"{original}: the lowest, {lowest}", by_part[lowest], "images/s"))
    return found


def recompute(path: Path) -> None:
    """Compute a file's limits again from its measured parts; machine and commit stay those of the measurement."""
    old = content_of(path)
    new = results_of(targets_of(old["parts"]), {"parts": old["parts"], "estimates": vars(ESTIMATES)})
    write_json(path, new | {"machine": old["machine"]})


def main() -> None:
    """Measure, print, and write JSON where asked to."""
    parser = parser_of(__doc__)
    parser.add_argument("--recompute", action="store_true", help="take the parts of the file with results")
    given = parser.parse_args()
    if given.recompute:
        recompute(RESULTS / "server_model.json")
        return
    with tempfile.TemporaryDirectory() as folder:
        parts = {original: measured(original, Path(folder)) for original in ORIGINALS}
    targets = targets_of(parts)
    write_results(given.out, targets, {"parts": parts, "estimates": vars(ESTIMATES)})


if __name__ == "__main__":
    main()
