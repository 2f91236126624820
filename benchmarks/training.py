"""Cost of training: steps in one process and in two, large annotation files, the loader.

    python -m benchmarks.training steps [--rounds 5]   # slim recipe: two processes of one thread, one of two threads
    python -m benchmarks.training annotations          # a file of train2017's size: time, memory, eight workers
    python -m benchmarks.training loader [--images 64] # processor time of an image of the published recipe

It prints JSON; `benchmarks/results/` holds what was committed. Images and weights are made from seeds.
"""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.targets import parser_of
from condinst_deploy.benchmarking.memory import peak_mb
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.data.shapes_dataset import generate_shapes
from condinst_deploy.training.batches import batches
from condinst_deploy.training.ranks import Ranks
from condinst_deploy.training.recipe import DataSettings, Recipe, load_recipe
from condinst_deploy.training.run_start import new_run
from condinst_deploy.training.trainer import manifest_for, open_sets
from tests.support.coco_sized import TRAIN_IMAGES, TRAIN_OBJECTS, cut_photographs, made_up_annotations
from tests.support.processes import in_processes

WARM_UP, STEPS = 4, 24
IMAGES = 64


def main() -> None:
    """Run one of the measurements."""
    parser = parser_of(__doc__, out=False)
    parser.add_argument("what", choices=("steps", "annotations", "loader"))
    parser.add_argument("--rounds", type=int, default=5, help="steps: pairs of measurements, one after the other")
    parser.add_argument("--images", type=int, default=64, help="loader: how many")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "steps":
            results = steps(Path(folder), arguments.rounds)
        elif arguments.what == "annotations":
            results = annotations(Path(folder), TRAIN_IMAGES, TRAIN_OBJECTS)
        else:
            results = loader(Path(folder), arguments.images)
    print(json.dumps(results | {"machine": machine()}, indent=2))


def steps(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds a step of the slim recipe, in pairs: two processes of one thread beside one of two threads.

    Both see the same images. The median of a round's steps counts; a pair's ratio is that of its two medians.
    """
    places = (str(generate_shapes(folder, "train", IMAGES)), str(folder / "train"))
    data = DataSettings(*places, *places, workers=0)
    recipe = replace(load_recipe("shapes_slim"), data=data)
    pairs = [
        (
            max(in_processes(2, _stepping(recipe, threads=1), folder)),
            max(in_processes(1, _stepping(recipe, threads=2), folder)),
        )
        for _ in range(rounds)
    ]
    two, one = ([pair[i] for pair in pairs] for i in (0, 1))
    return {
        "recipe": "shapes_slim",
        "steps": STEPS,
        "seconds_two_processes_of_one_thread": [round(x, 4) for x in two],
        "seconds_one_process_of_two_threads": [round(x, 4) for x in one],
        "ratio_median": round(statistics.median(a / b for a, b in pairs), 3),
        "ratios": [round(a / b, 3) for a, b in pairs],
    }


def annotations(folder: Path, images: int, objects: int, workers: int = 8) -> dict[str, Any]:
    """Time and memory of opening a made-up annotation file, and memory of each loading process beyond the first's.

    The workers decode small images, so that batches take little memory; what a worker adds is what it has alone.
    """
    path, before = made_up_annotations(folder / "train.json", images, objects), peak_mb()
    linked_images(folder / "images", images)
    wall, own = time.perf_counter(), time.process_time()
    data = CocoDataset(path, folder / "images", training=True)
    results: dict[str, Any] = {
        "megabytes": round(path.stat().st_size / 1e6),
        "images": len(data.all_records),
        "objects": len(data.all_records.owned()[0]),
        "seconds": round(time.perf_counter() - wall, 1),
        "processor_seconds": round(time.process_time() - own, 1),
        "megabytes_of_memory_before": round(before or 0),
        "megabytes_of_memory_at_most": round(peak_mb() or 0),
        "megabytes_of_memory_after": round(_memory_mb(os.getpid(), "Rss")),
    }
    recipe = replace(load_recipe("condinst_r50_1x"), short_sides=(96,))
    recipe = replace(recipe, data=replace(recipe.data, workers=workers, prefetch=1))
    loading, batch_count = batches(data, recipe, 0, Ranks(0, 8)), 50 * workers
    for _ in range(batch_count):
        next(loading)
    children = multiprocessing.active_children()
    private = [_memory_mb(child.pid, "Private_Dirty", "Private_Clean") for child in children if child.pid is not None]
    results["megabytes_of_each_worker_alone"] = sorted(round(own) for own in private)
    return results


def loader(folder: Path, images: int) -> dict[str, Any]:
    """Processor time of an image of 640x480 with seven objects, from a JPEG to its place in a batch of two."""
    path = made_up_annotations(folder / "train.json", images, objects=7 * images)
    linked_images(folder / "images", images)
    data = CocoDataset(path, folder / "images", training=True)
    recipe = load_recipe("condinst_r50_1x")
    recipe = replace(recipe, data=replace(recipe.data, workers=0))
    loading = batches(data, recipe, 0, Ranks(0, 8))
    next(loading)
    started, seen = time.process_time(), 0
    while seen < images:
        seen += len(next(loading).targets)
    seconds = (time.process_time() - started) / seen
    return {"images": seen, "processor_ms_an_image": round(1000 * seconds, 2), "images_per_second": round(1 / seconds)}


def linked_images(folder: Path, count: int) -> None:
    """So many names for a few photographs."""
    folder.mkdir()
    photographs = cut_photographs(folder, 8).parent / "images"
    for i in range(1, count + 1):
        (folder / f"{i:012d}.jpg").symlink_to(photographs / f"{i % 8 + 1}.jpg")


def _memory_mb(process: int, *kinds: str) -> float:
    """Of a process, by the kernel's counts."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in kinds) / 1024


def _stepping(recipe: Recipe, threads: int) -> Callable[[Ranks], float]:
    def function(ranks: Ranks) -> float:
        torch.set_num_threads(threads)
        sets = open_sets(recipe)
        run = new_run(recipe, manifest_for(recipe, sets), torch.device("cpu"), ranks)
        seconds = []
        loader = batches(sets.train, recipe, 0, ranks)
        for number in range(WARM_UP + STEPS):
            started = time.perf_counter()
            run.step(next(loader))
            if number >= WARM_UP:
                seconds.append(time.perf_counter() - started)
        return statistics.median(seconds)

    return function


if __name__ == "__main__":
    main()
