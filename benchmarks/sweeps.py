"""Cost by instances, image size, batch and threads; and the network's share of the machine's peak.

    python -m benchmarks.sweeps [--out benchmarks/results/sweeps.json]   # about five minutes on two quiet cores
    python -m benchmarks.sweeps plot                                     # docs/images/sweep_*.png from that file

The network is mmdetection's R-50 with weights made from a seed, exported, on a photograph of 1333x800; at two to three
seconds an image it has few repeats. Batches up to eight are run with the slim model that ships. Masks are seeded
blobs at the network's stride; the dense reference takes them in chunks, so that its memory stays bounded.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks.network_work import gflop_of_r50
from benchmarks.performance_tables import instance_table, network_table, original_table, target_table
from benchmarks.targets import Target, parser_of, rounded, write_results
from benchmarks.timing import spent
from condinst_deploy.benchmarking.benchmark_settings import cores_for
from condinst_deploy.benchmarking.process import ModelProcess
from condinst_deploy.benchmarking.statistics import Ratio
from condinst_deploy.benchmarking.worker import STAGES
from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.model.config import MASK_STRIDE
from condinst_deploy.model.mask_head import dynamic_mask_head
from condinst_deploy.runtime.postprocess import masks_from_logits
from condinst_deploy.runtime.preprocessing.batch import network_inputs
from condinst_deploy.shown_text import counted
from tests.support.dense_masks import dense_rles
from tests.support.exports import exported, save_r50
from tests.support.models import IMAGES, SHIPPED

OUT = Path(__file__).parent / "results" / "sweeps.json"

HEIGHT, WIDTH = 800, 1333
SLOTS = 100
CHUNK_PIXELS = 3e8
"""Of the dense reference: so many pixels of masks at once, 1.2 GB of float32."""

SLOW_PIXELS = 3e8
"""Of masks; the dense reference takes seconds for more, and runs once."""

Row = dict[str, Any]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Plan:
    """Ranges of the sweeps; the committed file was made with the defaults."""

    instances: tuple[int, ...] = (10, 30, 100, 200, 300)
    originals: tuple[tuple[int, int], ...] = ((480, 640), (800, 1333), (1080, 1920), (2000, 3000), (3000, 4000))
    full_runs: tuple[tuple[int, int, int], ...] = ((1, 1, 3), (2, 1, 3), (2, 2, 3), (2, 4, 2))  # threads, batch, calls
    slim_batches: tuple[int, ...] = (1, 2, 4, 8)
    slim_calls: int = 5
    repeat: int = 3  # of what takes less than a second
    peak_side: int = 2048
    threads: tuple[int, ...] = (1, 2)
    seed: int = 0


def measured(plan: Plan, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """All sweeps; `folder` is for the models."""
    work = {part: rounded(gflop) for part, gflop in gflop_of_r50().items()}
    metrics: dict[str, Any] = {"seed": plan.seed, "gflop": work}
    say("peak of the machine: products and convolutions in float32")
    metrics["peak"] = [peak(plan, threads) for threads in _usable(plan.threads)]
    say("masks by instances")
    metrics["instances"] = [instances(count, plan) for count in plan.instances]
    say("images and masks by size of the original")
    metrics["originals"] = [original(size, plan) for size in plan.originals]
    say("exporting R-50 and the slim model")
    models = _models(folder)
    say("R-50 by threads and batch")
    runs = [run for run in plan.full_runs if run[0] in _usable(plan.threads)]
    metrics["full"] = [_network(models["full"], *run) for run in runs]
    say("the slim model by threads and batch")
    metrics["slim"] = [
        _network(models["slim"], threads, batch, plan.slim_calls)
        for threads in _usable(plan.threads)
        for batch in plan.slim_batches
    ]
    return metrics


def _usable(threads: Sequence[int]) -> list[int]:
    """Those that this process has the cores for."""
    return [count for count in threads if count <= len(cores_for(None))]


def peak(plan: Plan, threads: int) -> Row:
    """GFLOP/s of a large product and of the towers' convolution at P3 (3x3, 256 channels); GB/s of a copy."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    random = torch.Generator().manual_seed(plan.seed)
    side = plan.peak_side
    a, b = (torch.randn(side, side, generator=random) for _ in range(2))
    x = torch.randn(1, 256, side // 20, side // 12, generator=random)  # 102 x 170 as P3 of 800x1344 is 100 x 168
    weight = torch.randn(256, 256, 3, 3, generator=random)
    try:
        product = 2 * side**3 / _best(lambda: torch.mm(a, b), plan.repeat) / 1e9
        operations = 2 * 9 * 256**2 * x.shape[2] * x.shape[3]
        convolution = operations / _best(lambda: F.conv2d(x, weight, padding=1), plan.repeat) / 1e9
        long = torch.zeros(16 * side**2)  # 268 MB, larger than caches are
        copied = torch.empty_like(long)
        copy = 2 * long.nbytes / _best(lambda: copied.copy_(long), plan.repeat) / 1e9
    finally:
        torch.set_num_threads(before)
    speeds = {"product_gflops": product, "convolution_gflops": convolution, "copy_gbs": copy}
    return {"threads": threads} | {name: rounded(speed) for name, speed in speeds.items()}


def _best(call: Callable[[], object], repeat: int) -> float:
    """The least of several times: a peak is what nothing disturbs."""
    call()
    return min(spent(call) for _ in range(2 * repeat))


def instances(count: int, plan: Plan) -> Row:
    """The mask head, and masks to RLE, of so many instances; the original has the network's size."""
    geometry = ImageGeometry.of((HEIGHT, WIDTH), Preprocessing())
    beside = _beside_dense(blobs(count, plan.seed, geometry), geometry, plan)
    return {"instances": count, "mask_head_ms": _mask_head(count, plan)} | beside


def original(size: tuple[int, int], plan: Plan) -> Row:
    """Resizing an image of this size, and masks to RLE at it."""
    image = np.random.default_rng(plan.seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    geometry = ImageGeometry.of(size, Preprocessing())
    resize = median(spent(lambda: network_inputs([image], [geometry])) for _ in range(plan.repeat))
    row = {"height": size[0], "width": size[1], "megapixels": rounded(size[0] * size[1] / 1e6)}
    return row | {"resize_ms": _ms(resize)} | _beside_dense(blobs(SLOTS, plan.seed, geometry), geometry, plan)


def _beside_dense(logits: Float32, geometry: ImageGeometry, plan: Plan) -> Row:
    """Ours and the dense reference in turn, from the same logits to RLE."""
    kept = np.arange(len(logits))
    pixels = max(prod(geometry.original), prod(geometry.padded))
    chunk = max(1, int(CHUNK_PIXELS / pixels))
    chunks = [torch.from_numpy(logits[i : i + chunk]) for i in range(0, len(logits), chunk)]

    def ours() -> object:
        return masks_from_logits(logits, kept, geometry).rle()

    def dense() -> object:
        return [dense_rles(part, geometry) for part in chunks]

    ours()  # places of rows and columns among the probabilities are found once for a size
    pairs = plan.repeat if len(logits) * pixels < SLOW_PIXELS else 1
    compact, full = zip(*((spent(ours), spent(dense)) for _ in range(pairs)), strict=True)
    more = [spent(ours) for _ in range(plan.repeat)]
    return {
        "masks_ms": _ms(median((*compact, *more))),
        "dense_ms": _ms(median(full)),
        "dense_over_masks": rounded(Ratio.of(full, compact).median),
    }


def _mask_head(count: int, plan: Plan) -> float:
    random = torch.Generator().manual_seed(plan.seed)
    feats, params = (torch.randn(1, *shape, generator=random) for shape in ((8, 100, 168), (count, 169)))
    points = torch.rand(1, count, 2, generator=random) * torch.tensor([WIDTH, HEIGHT])
    soi = torch.full((1, count), 128.0)

    def call() -> object:
        return dynamic_mask_head(feats, params, points, soi)

    call()
    return _ms(median(spent(call) for _ in range(plan.repeat)))


def blobs(count: int, seed: int, geometry: ImageGeometry) -> Float32:
    """Mask logits `(count, h, w)` at stride 8: ellipses of 0.5 % to 50 % of the frame, wavy margins, noise."""
    height, width = (side // MASK_STRIDE for side in geometry.padded)
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    # every size for any count: the median is 5 %
    area = rng.permutation(np.geomspace(0.005, 0.5, count)) * height * width
    aspect = np.exp(rng.uniform(-0.7, 0.7, count))
    centre = rng.uniform(0.2, 0.8, (count, 2)) * (height, width)
    logits = np.empty((count, height, width), dtype=np.float32)
    for i, ((y, x), size, ratio) in enumerate(zip(centre, area, aspect, strict=True)):
        a, b = np.sqrt(size * ratio / np.pi), np.sqrt(size / ratio / np.pi)
        angle = np.arctan2(rows - y, columns - x)
        wave = 1 + 0.1 * np.sin(rng.integers(3, 9) * angle)
        logits[i] = 8 * (wave - np.hypot((rows - y) / a, (columns - x) / b))
    return logits + rng.normal(0, 0.3, logits.shape).astype(np.float32)


def _models(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Name -> exported file and the image that it is timed on."""
    save_r50(folder / "r50.pth", folder / "r50.onnx")
    exported(SHIPPED, folder / "slim.onnx")
    photograph = Image.open(IMAGES / "coffee.png").convert("RGB")
    photograph.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(folder / "coffee.png")
    return {"full": (folder / "r50.onnx", folder / "coffee.png"), "slim": (folder / "slim.onnx", folder / "coffee.png")}


def _network(model: tuple[Path, Path], threads: int, batch: int, calls: int) -> Row:
    """Median times an image of every stage, in a separate process with so many threads."""
    path, image = model
    with ModelProcess(path, cores_for(threads)) as process:
        process.ask("load", model=str(path), device="cpu", images={"paths": [str(image)]}, batches=[batch])
        process.ask("call", batch=batch, number=0)
        taken = [process.ask("call", batch=batch, number=number) for number in range(calls)]
        peak_mb = process.ask("memory")["peak_mb"]
    stages = {f"{stage}_ms": _ms(median(call[stage] for call in taken) / batch) for stage in STAGES}
    row: Row = {"threads": threads, "batch": batch, "calls": calls}
    return row | stages | {"detections": taken[0]["detections"] / batch, "peak_mb": rounded(peak_mb)}


def _ms(seconds: float) -> float:
    return rounded(1e3 * seconds)


def targets_of(metrics: dict[str, Any]) -> list[Target]:
    """The metrics of the roofline; nothing was asked of them."""
    targets = []
    for row in metrics["peak"]:
        threads = row["threads"]
        targets.append(
            Target.without(f"largest product's speed, {counted(threads, 'thread')}", row["product_gflops"], "GFLOP/s")
        )
        targets.append(
            Target.without(f"convolution's speed, {counted(threads, 'thread')}", row["convolution_gflops"], "GFLOP/s")
        )
        targets.append(
            Target.without(f"copying, read and written, {counted(threads, 'thread')}", row["copy_gbs"], "GB/s")
        )
        for run in metrics["full"]:
            if (run["threads"], run["batch"]) == (threads, 1):
                speed = sum(metrics["gflop"].values()) / run["network_ms"] * 1e3
                peak = max(row["product_gflops"], row["convolution_gflops"])
                targets.append(Target.without(f"network's speed, {counted(threads, 'thread')}", speed, "GFLOP/s"))
                targets.append(
                    Target.without(
                        f"network's share of the peak, {counted(threads, 'thread')}", 100 * speed / peak, "%"
                    )
                )
    return targets


def main() -> int:
    """Measure, or draw what was measured."""
    parser = parser_of(__doc__, out=False)
    parser.add_argument("what", nargs="?", choices=("measure", "plot"), default="measure")
    parser.add_argument("--out", type=Path, default=OUT, help="the results file, written or drawn")
    arguments = parser.parse_args()
    if arguments.what == "measure":
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            metrics = measured(Plan(), Path(folder), lambda what: print(f"{what} ...", file=sys.stderr, flush=True))
        targets = targets_of(metrics)
        write_results(arguments.out, targets, metrics)
        tables = (instance_table(metrics), original_table(metrics), network_table(metrics), target_table(targets))
        print("\n\n".join(tables))
        print(f"{arguments.out}, {time.monotonic() - started:.0f} seconds", file=sys.stderr)
    else:
        from benchmarks.sweep_plots import IMAGES as PLOTS
        from benchmarks.sweep_plots import draw_sweeps

        for path in draw_sweeps(json.loads(arguments.out.read_text(encoding="utf-8")), PLOTS):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
