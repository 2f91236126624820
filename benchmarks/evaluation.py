"""Cost of an evaluation besides the network.

    python -m benchmarks.evaluation files              # COCO-sized results: written, journalled, read back
    python -m benchmarks.evaluation overhead [--images 24]   # R-50 at 800 px: where the time of condinst-eval goes

Both print JSON; `benchmarks/results/` holds what was committed. Images, masks and weights are made from seeds.
"""

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.machine import machine
from benchmarks.targets import parser_of
from condinst_deploy.benchmarking.memory import peak_mb
from condinst_deploy.evaluation import evaluator
from condinst_deploy.evaluation.coco_metrics import Kind, Scope, evaluate_coco
from condinst_deploy.evaluation.evaluation_report import Verdict, write_html
from condinst_deploy.evaluation.evaluator import evaluate
from condinst_deploy.evaluation.ground_truth import load_ground_truth
from condinst_deploy.evaluation.journal import Journal
from condinst_deploy.evaluation.results_reader import read_results
from condinst_deploy.evaluation.sources import EvaluationOptions, Source
from condinst_deploy.runtime import observer
from condinst_deploy.runtime.coco_results import coco_results
from condinst_deploy.runtime.observer import StageTimer
from condinst_deploy.runtime.predictor import Predictor
from tests.support.coco_sized import EACH, cut_photographs, made_up_detections, made_up_ground_truth
from tests.support.exports import save_r50

IMAGES = 5000
POOL = 50
"""Different images' detections; the others repeat them under other ids."""

LABELS = {
    observer.DECODE: "decode",
    observer.RESIZE: "resize and pad",
    observer.BATCH: "batch",
    observer.NETWORK: "network",
    observer.POSTPROCESS: "masks at original size",
    evaluator.ENCODE: "RLE",
    evaluator.JOURNAL: "journal",
    evaluator.AVERAGE_PRECISION: "average precision",
    evaluator.MATCHING: "matching",
}
"""Stage -> its name in the results; the network is that of both models."""


def main() -> None:
    """Run one of the two measurements."""
    parser = parser_of(__doc__, out=False)
    parser.add_argument("what", choices=("files", "overhead"))
    parser.add_argument("--images", type=int, help="how many; default: 5000 for files, 24 for overhead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "files":
            metrics = files(Path(folder), arguments.images or IMAGES)
        else:
            metrics = overhead(Path(folder), arguments.images or 24)
    print(json.dumps(metrics | {"machine": machine()}, indent=2))


def files(folder: Path, images: int = IMAGES) -> dict[str, Any]:
    """Seconds and peak memory of writing and reading made-up results, and of evaluating them."""
    pool = [made_up_detections(seed) for seed in range(POOL)]
    ground_truth = made_up_ground_truth(folder, pool, images)
    timer = StageTimer()
    with timer("encode (RLE)", ()):
        for i in range(images):
            pool[i % POOL].to_coco(1)
    made_up = [found.to_coco(0) for found in pool]
    with timer("write results (JSON)", ()), coco_results(folder / "results.json") as writer:
        for i, image_id in enumerate(ground_truth.image_ids):
            writer.add_entries(entry | {"image_id": image_id} for entry in made_up[i % POOL])
    with timer("read results (JSON and checks)", ()):
        entries = read_results(folder / "results.json", ground_truth)
    peak = _peak_gib()
    assert len(entries) == images * EACH
    finished = [(image_id, "") for image_id in ground_truth.image_ids]
    with timer("write journal", ()), Journal(folder, "x", {}, finished, window=1) as journal:
        for i, image_id in enumerate(ground_truth.image_ids):
            journal.add(image_id, entries[i * EACH : (i + 1) * EACH])
    kinds: tuple[Kind, ...] = ("bbox", "segm")
    for fast in (False, True):
        if fast and find_spec("faster_coco_eval") is None:
            continue
        with timer(f"box and mask AP, {'faster-coco-eval' if fast else 'pycocotools'}", ()):
            for kind in kinds:
                evaluate_coco(ground_truth.coco, entries, kind, Scope(fast=fast))
    return {
        "detections": len(entries),
        "results_mb": round((folder / "results.json").stat().st_size / 1e6, 1),
        "seconds": seconds_of(timer),
        "peak_gib_written_and_read": peak,
        "peak_gib_evaluated": _peak_gib(),
    }


def overhead(folder: Path, images: int) -> dict[str, Any]:
    """Split the wall time of `condinst-eval --model r50.pth --model r50.onnx` into its parts."""
    annotations, checkpoint, exported = cut_photographs(folder, images), folder / "r50.pth", folder / "r50.onnx"
    save_r50(checkpoint, exported)
    ground_truth = load_ground_truth(annotations, folder / "images")
    timer = StageTimer()
    options = EvaluationOptions(folder / "out", observer=timer)
    for warm_up in (checkpoint, exported):
        with Predictor(warm_up) as model:
            model(ground_truth.paths[0])
    with timer("all", ()):
        sources = [Source(checkpoint, is_model=True), Source(exported, is_model=True)]
        evaluation = evaluate(sources, ground_truth, options, lambda *_: None)
        with timer("report", ()):
            write_html(folder / "out" / "report.html", evaluation, Verdict(), per_class=False)
    seconds = seconds_of(timer)
    whole, network = seconds.pop("all"), seconds[LABELS[observer.NETWORK]]
    return {
        "images": images,
        "detections": [side.detections for side in evaluation.sides],
        "network_input": "800x1067 padded to 800x1088",
        "seconds": seconds,
        "all": whole,
        # stages work at the same time and add up to more than all; this is what the network does not cover
        "overhead_share_of_wall": round(1 - network["wall"] / whole["wall"], 4),
    }


def seconds_of(timer: StageTimer) -> dict[str, dict[str, float]]:
    """Label -> wall time, and CPU time of the stage's thread, which other work of the machine does not change."""
    totals: dict[str, list[float]] = {}
    for each in timer.take():
        wall, cpu = totals.get(LABELS.get(each.stage, each.stage), (0.0, 0.0))
        totals[LABELS.get(each.stage, each.stage)] = [wall + each.seconds, cpu + each.cpu_seconds]
    return {stage: {"wall": round(wall, 2), "cpu": round(cpu, 2)} for stage, (wall, cpu) in totals.items()}


def _peak_gib() -> float:
    peak = peak_mb()
    assert peak is not None, "this needs /proc"
    return round(peak * 1e6 / 2**30, 2)


if __name__ == "__main__":
    main()
