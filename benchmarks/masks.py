"""Cost of masks after the network: ours and the references' dense computation, in the same run.

    python -m benchmarks.masks [--out benchmarks/results/masks.json]

Logits of 100 instances are made from a seed, for a network input of 800x1344 and three sizes of the original, and
100 masks of the whole image. Both sides start with logits in memory and end with COCO RLEs. The references paste
all instances at once; the same computation for one instance at a time is also measured, because it needs less
memory, and no less time. Every value is a median over rounds in which the sides take turns. Peak memory is that of
a separate process, above what it had before. Equality is counted in pixels.
"""

import ctypes
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.targets import Target, parser_of, write_results
from condinst_deploy.benchmarking.memory import peak_mb, resident_mb
from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.masks import Masks
from condinst_deploy.model.mask_paste import dense_probabilities
from condinst_deploy.runtime.postprocess import masks_from_logits
from tests.support.dense_masks import dense_masks, dense_rles, encoded

Logits = npt.NDArray[np.float32]

SEED = 0
INSTANCES = 100
MANY = 300
NETWORK = (800, 1344)
MEDIAN_AREA, LARGEST_AREA = 0.05, 0.4  # of the image; the smallest is as much smaller as the largest is larger
UNDECIDED = 5e-5
"""Probabilities this close to 0.5 may fall on either side."""

ORIGINALS = ("1333x800", "640x480", "4000x3000")
ROUNDS = {"4000x3000": 2}
OTHER_ROUNDS = 5
SETS = ("objects", "full frame")
SPEEDUPS = {"objects": 20.0, "full frame": 1.0}
MEMORY_SHARE, MB_OF_MANY = 1 / 20, 200.0


class Case(NamedTuple):
    """Instances of one image; its size is written as width x height."""

    kind: str
    original: str
    instances: int = INSTANCES

    @property
    def geometry(self) -> ImageGeometry:
        width, height = map(int, self.original.split("x"))
        return ImageGeometry.of((height, width), Preprocessing(), canvas=NETWORK)

    def logits(self) -> Logits:
        """`(n, 100, 168)`; an image that is not as wide as the network's input has empty padding."""
        frame = tuple(-(-side // 8) for side in self.geometry.resized)
        rng = np.random.default_rng(SEED)
        logits = np.full((self.instances, NETWORK[0] // 8, NETWORK[1] // 8), -8, dtype=np.float32)
        inside = full_frame if self.kind == "full frame" else objects
        logits[:, : frame[0], : frame[1]] = inside(rng, self.instances, (frame[0], frame[1]))
        return logits


def objects(rng: np.random.Generator, count: int, frame: tuple[int, int]) -> Logits:
    """Uneven blobs whose margins are some logits wide and noisy, areas evenly spread on a logarithmic scale."""
    spread = np.log(LARGEST_AREA / MEDIAN_AREA)
    areas = MEDIAN_AREA * np.exp(rng.permutation(np.linspace(-spread, spread, count)))
    return np.stack([_blob(rng, area, frame) for area in areas])


def _blob(rng: np.random.Generator, area: float, frame: tuple[int, int]) -> Logits:
    height, width = frame
    radius, stretch = np.sqrt(area * height * width / np.pi), np.exp(rng.normal(0, 0.15))
    radii = radius * stretch, radius / stretch
    y, x = (rng.uniform(min(r, side / 2), max(side - r, side / 2)) for r, side in zip(radii, frame, strict=True))
    dy, dx = (np.arange(height)[:, None] - y) / radii[0], (np.arange(width) - x) / radii[1]
    angle, outline = np.arctan2(dy, dx), np.ones(frame)
    for wave in range(2, 6):
        outline += rng.normal(0, 0.2 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    # 1.5 a logit across the outline: 18 % to 82 % on 16 pixels
    signed = 1.5 * radius * (1 - np.hypot(dy, dx) / outline)
    noisy: npt.NDArray[np.float64] = signed + rng.normal(0, 0.3, frame)
    return noisy.clip(-8, 8).astype(np.float32)


def full_frame(rng: np.random.Generator, count: int, frame: tuple[int, int]) -> Logits:
    """Every pixel belongs to every instance."""
    return (5 + rng.normal(0, 0.5, (count, *frame))).astype(np.float32)


def main() -> None:
    """Measure, print a table, and write JSON where asked to."""
    parser = parser_of(__doc__)
    parser.add_argument("--originals", nargs="+", default=list(ORIGINALS), help="sizes, as 640x480")
    parser.add_argument("--instances", type=int, default=INSTANCES)
    parser.add_argument("--many", type=int, default=MANY, help="instances whose peak memory is measured")
    parser.add_argument("--rounds", type=int, help="default: 5, and 2 for the largest image")
    arguments = parser.parse_args()
    rows = []
    for case in [Case(kind, original, arguments.instances) for kind in SETS for original in arguments.originals]:
        print(f"{case.kind}, {case.original} ...", flush=True)
        rows.append(row(case, arguments.rounds or ROUNDS.get(case.original, OTHER_ROUNDS)))
        print(f"  {rows[-1]}", flush=True)
    many = peak_of("ours", Case("objects", arguments.originals[-1], arguments.many))
    print(table(rows), f"peak memory of {arguments.many} on {arguments.originals[-1]}: {many:.0f} MB", sep="\n")
    what = f"extra memory of {arguments.many} on {arguments.originals[-1]}"
    many_target = Target.at_most(what, many, MB_OF_MANY, "MB")
    write_results(arguments.out, [*targets_of(rows), many_target], {"seed": SEED, "rows": rows})


def targets_of(rows: list[dict[str, Any]]) -> list[Target]:
    """Targets of each case."""
    targets = []
    for each in rows:
        case = f"{each['kind']}, {each['original']}"
        share = each["mb ours"] / each["mb dense"]
        targets += [
            Target.at_least(f"paste and RLE, {case}: dense / ours", each["speedup"], SPEEDUPS[each["kind"]], "x"),
            Target.at_most(f"peak extra memory, {case}: ours / dense", share, MEMORY_SHARE, ""),
            Target.at_most(f"wrong pixels, {case}", each["wrong pixels"], 0, "pixels"),
            Target.at_most(f"RLEs unlike pycocotools', {case}", each["rles unlike pycocotools"], 0, "masks"),
        ]
    return targets


def row(case: Case, rounds: int) -> dict[str, Any]:
    """All metrics of one case."""
    logits = case.logits()
    return {
        "kind": case.kind,
        "original": case.original,
        "instances": case.instances,
        **extents(logits, case.geometry),
        **times(logits, case.geometry, rounds),
        **{f"mb {form}": peak_of(form, case) for form in FORMS},
        **differences(logits, case.geometry),
    }


def extents(logits: Logits, geometry: ImageGeometry) -> dict[str, float]:
    """Return statistics of the set, as shares of the image."""
    masks = ours(logits, geometry)
    areas = masks.areas / (geometry.original[0] * geometry.original[1])
    runs = statistics.mean(len(runs) / 2 for runs in masks.runs)
    metrics = {"median area": np.median(areas), "largest area": areas.max(), "runs a mask": runs}
    return {name: round(float(value), 3) for name, value in metrics.items()}


def times(logits: Logits, geometry: ImageGeometry, rounds: int) -> dict[str, Any]:
    """Milliseconds of each step, and how many times the dense computation takes ours: medians over the rounds."""
    ours(logits[:1], geometry)
    dense_rles(torch.from_numpy(logits[:1]), geometry)
    measured = [one_round(logits, geometry) for _ in range(rounds)]
    metrics = {f"ms {step}": statistics.median(each[step] for each in measured) for step in measured[0]}
    for name, left, right in (
        ("paste speedup", ("dense paste",), ("our paste",)),
        ("rle speedup", ("dense rle",), ("our rle",)),
        ("speedup", ("dense paste", "dense rle"), ("our paste", "our rle")),
        ("speedup over one at a time", ("dense one at a time",), ("our paste", "our rle")),
    ):
        ratios = [sum(each[step] for step in left) / sum(each[step] for step in right) for each in measured]
        metrics[name] = statistics.median(ratios)
    return {name: round(value, 2) for name, value in metrics.items()}


def one_round(logits: Logits, geometry: ImageGeometry) -> dict[str, float]:
    """Milliseconds of each step, the sides one after the other."""
    tensor = torch.from_numpy(logits)
    spent: dict[str, float] = {}
    dense = _timed(spent, "dense paste", lambda: dense_masks(tensor, geometry))
    _timed(spent, "dense rle", partial(encoded, dense))
    del dense
    masks = _timed(spent, "our paste", lambda: ours(logits, geometry))
    _timed(spent, "our rle", masks.rle)
    _timed(spent, "our areas", lambda: masks.areas)
    _timed(spent, "our crops", lambda: [masks.crop(i) for i in range(len(masks))])
    _timed(spent, "dense one at a time", lambda: one_at_a_time(logits, geometry))
    return spent


def _timed(spent: dict[str, float], step: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    result = work()
    spent[step] = (time.perf_counter() - started) * 1e3
    return result


def ours(logits: Logits, geometry: ImageGeometry) -> Masks:
    return masks_from_logits(logits, np.arange(len(logits)), geometry)


def one_at_a_time(logits: Logits, geometry: ImageGeometry) -> list[dict[str, Any]]:
    return [dense_rles(torch.from_numpy(logits[i : i + 1]), geometry)[0] for i in range(len(logits))]


FORMS: dict[str, Callable[[Logits, ImageGeometry], Any]] = {
    "dense": lambda logits, geometry: dense_rles(torch.from_numpy(logits), geometry),
    "dense one at a time": one_at_a_time,
    "ours": lambda logits, geometry: (masks := ours(logits, geometry), masks.rle()),
}
"""From logits to RLEs, all of which are kept."""


def peak_of(form: str, case: Case) -> float:
    """Peak resident memory of one form in a separate process, above what it has before it begins."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        return processes.submit(peak_here, form, case).result()


def peak_here(form: str, case: Case) -> float:
    logits, geometry = case.logits(), case.geometry
    FORMS[form](logits[:1], geometry)  # what is loaded or made once
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before = resident_mb()
    kept = FORMS[form](logits, geometry)
    peak = peak_mb()
    del kept
    assert before is not None, "this needs /proc"
    assert peak is not None
    return round(peak - before, 1)


def differences(logits: Logits, geometry: ImageGeometry) -> dict[str, int]:
    """Pixels that differ from the dense masks where these are decided, and where not; RLEs that differ."""
    wrong = undecided = rles = 0
    for i, mask in enumerate(ours(logits, geometry)):
        probabilities = dense_probabilities(torch.from_numpy(logits[i : i + 1]), geometry).numpy()
        mine = np.asarray(mask)
        differing = np.abs(probabilities[mine != (probabilities > 0.5)] - 0.5)
        wrong += int((differing > UNDECIDED).sum())
        undecided += int((differing <= UNDECIDED).sum())
        rles += mask.rle() != encoded(mine)
    return {"wrong pixels": wrong, "undecided pixels": undecided, "rles unlike pycocotools": rles}


def table(rows: list[dict[str, Any]]) -> str:
    """Return a table of all cases, one a line."""
    lines = ["set         original   dense ms  ours ms  speedup  (paste  rle)  dense MB  ours MB  share   wrong px"]
    for each in rows:
        dense, our = (each[f"ms {side} paste"] + each[f"ms {side} rle"] for side in ("dense", "our"))
        lines.append(
            f"{each['kind']:11} {each['original']:9} {dense:9.0f} {our:8.1f} {each['speedup']:7.1f}x"
            f" {each['paste speedup']:6.1f}x {each['rle speedup']:4.1f}x {each['mb dense']:9.0f} {each['mb ours']:8.1f}"
            f" 1/{each['mb dense'] / max(each['mb ours'], 0.1):<5.0f} {each['wrong pixels']:5}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
