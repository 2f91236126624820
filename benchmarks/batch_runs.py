"""Overhead of batch runs: in the worker, in the driver, and in Ray.

    .ray/bin/python -m benchmarks.batch_runs --out benchmarks/results/batch_runs.json    # after make ray-env

* **worker**: CPU time of a shard (reading, rows, encoding, writing) beside that of `Predictor.stream` and the RLE
  of the same images, taken in turn; slim model at batch 16, and R-50 (seeded weights) at batch 1 and full size.
* **stages**: CPU time of one image: decode, resize, masks to rows; bytes of the file, and of its row.
* **driver**: peak memory of the driver on Ray with two workers, for 2,000 and 20,000 rows of a list. Nine of ten paths
  lead nowhere, so that workers are quick; the driver handles the names alike.
* **workers**: one worker and two on Ray, each with one core: images/s from the first report until the last one, and the
  CPU time of an image in the workers and in the other processes of the run (the driver, Ray), without the start.
* **shards**: time of a shard on Ray that is not work: from its start until its report, less the worker's own time; and
  the driver's CPU time for a shard, without the start.

CPU time of the process is taken, where it can be, because it does not depend on what else the machine does.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from PIL import Image

from benchmarks.targets import Target, parser_of, write_results
from benchmarks.timing import median_ms, spent
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.model.checkpoints import save_model
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.preprocessing.batch import network_inputs
from condinst_deploy.serving.batch.batch_driver import planned
from condinst_deploy.serving.batch.batch_options import BatchOptions, DetectionOptions
from condinst_deploy.serving.batch.output_rows import Classes, ImageRow, arrow_table
from condinst_deploy.serving.batch.parts import part_encoder
from condinst_deploy.serving.batch.shard_worker import ShardWorker
from tests.support.batch_runs import COMMAND, command_environment, events_of, save_small_model, write_images
from tests.support.exports import save_r50_checkpoint
from tests.support.models import IMAGES, SLIM, manifest_of, seeded_model
from tests.support.process_tree import cpu_seconds_of, descendants, is_ray_worker

WORKER_TARGETS = {"slim, batch 16": 5.0, "R-50, batch 1": 10.0}
"""Percent of the work that a worker may add."""

DRIVER_ROWS = (2_000, 20_000)
SHARD = 16


def worker_overhead(model: Path, images: Path, batch_size: int, rounds: int, folder: Path) -> dict[str, Any]:
    """CPU seconds of a shard, and of the predictor alone on its images, in turn."""
    options = BatchOptions(str(images), model, str(folder), DetectionOptions("cpu", batch_size=batch_size))
    with planned(options) as plan, ShardWorker(plan.job) as worker:
        (shard,) = plan.pending()
        paths = [Path(path) for span in shard.spans for path in getattr(span, "paths", ())]

        def alone(predictor: Predictor) -> None:
            with closing(predictor.stream(paths)) as stream:
                for prediction in stream:
                    assert prediction.detections is not None
                    prediction.detections.masks.rle()

        def whole() -> None:
            (folder / "part-00000000.parquet").unlink(missing_ok=True)
            worker.run(shard)

        pairs = []
        for _ in range(rounds + 1):
            pairs.append((spent(lambda: alone(worker.predictor), time.process_time), spent(whole, time.process_time)))
    ratios = [shard_time / work - 1 for work, shard_time in pairs[1:]]  # the first round warms up
    per_image = [work / len(paths) for work, _ in pairs[1:]]
    return {
        "images": len(paths),
        "rounds": rounds,
        "work_ms_an_image": round(1000 * median(per_image), 3),
        "overhead": round(median(ratios), 4),
        "overheads": [round(ratio, 4) for ratio in ratios],
    }


def stages(model: Path, image: Path, rounds: int = 9) -> dict[str, Any]:
    """CPU milliseconds and bytes of one image."""
    with Predictor(model, device="cpu") as predictor:
        (found,) = predictor(image)
        pixels = rgb_from(image)
        geometry = predictor.backend.geometry(pixels)
        classes = Classes(tuple(predictor.class_names), tuple(predictor.manifest.category_ids))

        def rows(count: int) -> bytes:
            encoder = part_encoder("parquet", classes)
            for position in range(count):
                encoder.add(ImageRow(position, str(image), found))
            return encoder.finish()

        return {
            "file": image.name,
            "pixels": list(pixels.shape[:2]),
            "detections": len(found),
            "decode_ms": round(median_ms(lambda: rgb_from(image), rounds), 4),
            "resize_ms": round(median_ms(lambda: network_inputs([pixels], [geometry]), rounds), 4),
            "row_ms": round(median_ms(lambda: rows(64), rounds) / 64, 4),
            "bytes_in": image.stat().st_size,
            # without compression, which only rows of different images would show
            "bytes_out": int(arrow_table([ImageRow(0, str(image), found)], classes).nbytes),
        }


def driver_memory(model: Path, folder: Path, rows: int) -> dict[str, Any]:
    """Peak resident memory of the driver, and the time of its shards that is not work."""
    real = write_images(folder / "images", 10)
    names = [str(real[i % 10]) if i % 10 == 0 else f"/none/{i:08}.jpg" for i in range(rows)]
    (folder / f"{rows}.txt").write_text("".join(f"{name}\n" for name in names))
    out = folder / f"out{rows}"
    arguments = [folder / f"{rows}.txt", "--model", model, "--out", out, "--shard-size", 100, "--workers", 2]
    command = [*COMMAND, *map(str, arguments), "--device", "cpu", "--json"]
    peak, samples = 0, list[tuple[int, float]]()
    with subprocess.Popen(command, env=command_environment(), stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, peak_resident(process.pid))
            finished = sum(event["kind"] == "done" for event in events_of(out))
            if finished and (cpu := cpu_seconds_of(process.pid)):
                samples.append((finished, cpu))
            time.sleep(0.1)
        assert process.stdout is not None
        summary = json.loads(process.stdout.read())
    events = events_of(out)
    starts = {event["shard"]: event["time"] for event in events if event["kind"] == "start"}
    done = [event for event in events if event["kind"] == "done"]
    first, last = samples[0], samples[-1]
    waits = [event["time"] - starts[event["shard"]] - event["report"]["seconds"] for event in done]
    return {
        "rows": summary["images"],
        "shards": len(done),
        "driver_peak_mb": round(peak / 1024, 1),
        "driver_cpu_ms_a_shard": round(1000 * (last[1] - first[1]) / max(last[0] - first[0], 1), 3),
        "not_work_ms_a_shard": round(1000 * median(waits), 2),
    }


class Sample(NamedTuple):
    """Progress of a run: finished images, and CPU seconds of the workers and of its other processes."""

    images: int
    workers: float
    others: float


def workers_figures(model: Path, images: Path, workers: int, out: Path) -> dict[str, float]:
    """Images per second, and CPU milliseconds of an image, of workers with a core each, without the start."""
    arguments = [images, "--model", model, "--out", out, "--shard-size", SHARD, "--workers", workers, "--device", "cpu"]
    samples: list[Sample] = []
    command, silent = [*COMMAND, *map(str, arguments)], subprocess.DEVNULL
    with subprocess.Popen(command, env=command_environment(), stdout=silent, stderr=silent) as process:
        while process.poll() is None:
            samples += sample(process.pid, out, workers)
            time.sleep(0.2)
    if process.returncode:
        raise SystemExit(f"error: a run with {workers} workers ended with {process.returncode}")
    events = events_of(out)
    began = max(event["time"] for event in events if event["kind"] == "ready")
    done: list[float] = [event["time"] for event in events if event["kind"] == "done" and event["time"] > began]
    count = samples[-1].images - samples[0].images
    return {
        "images_per_second": round(SHARD * (len(done) - 1) / (max(done) - min(done)), 2),
        "worker_cpu_ms": round(1000 * (samples[-1].workers - samples[0].workers) / count, 3),
        "other_cpu_ms": round(1000 * (samples[-1].others - samples[0].others) / count, 3),
    }


def sample(process: int, out: Path, workers: int) -> list[Sample]:
    """One sample, if all workers have finished a shard and none has ended."""
    events = events_of(out)
    finished = [event for event in events if event["kind"] == "done"]
    family = [process, *descendants(process)]
    busy = [pid for pid in family if is_ray_worker(pid)]
    if len({event["worker"] for event in finished}) < workers or len(busy) < workers:
        return []
    cpu = {pid: cpu_seconds_of(pid) for pid in family}
    theirs = sum(cpu[pid] for pid in busy)
    return [Sample(SHARD * len(finished), theirs, sum(cpu.values()) - theirs)]


def peak_resident(process: int) -> int:
    """Peak of the resident memory, in KiB; 0 if the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def copies(image: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:04}.jpg").write_bytes(image.read_bytes())
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    parser = parser_of(__doc__, out=False)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parsed = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = folder / "coffee.jpg"  # of the size of a photograph on the web
        with Image.open(IMAGES / "coffee.png") as photograph:
            photograph.convert("RGB").resize((1280, 853)).save(image, quality=90)
        slim, r50 = folder / "slim.pth", folder / "r50.pth"
        save_model(slim, seeded_model(), manifest_of(SLIM))
        save_r50_checkpoint(r50)
        many, few = copies(image, folder / "many", 64), copies(image, folder / "few", 3)
        results: dict[str, Any] = {"stages": stages(slim, image)}
        results["worker"] = {
            "slim, batch 16": worker_overhead(slim, many, 16, 4 * parsed.rounds, folder / "a"),
            "R-50, batch 1": worker_overhead(r50, few, 1, parsed.rounds, folder / "b"),
        }
        lasting = copies(image, folder / "lasting", 800)
        results["workers"] = {
            str(workers): workers_figures(slim, lasting, workers, folder / f"workers{workers}") for workers in (1, 2)
        }
        small = save_small_model(folder / "small.pth")
        results["driver"] = [driver_memory(small, folder, rows) for rows in DRIVER_ROWS]
    targets = [
        Target.at_most(f"worker overhead, {model}", 100 * results["worker"][model]["overhead"], limit, "% of the work")
        for model, limit in WORKER_TARGETS.items()
    ]
    one, two = results["workers"]["1"], results["workers"]["2"]
    rates = two["images_per_second"] / one["images_per_second"]
    targets.append(Target.without("two workers beside one", rates, "times the images/s"))
    times = two["worker_cpu_ms"] / one["worker_cpu_ms"]
    targets.append(Target.without("CPU time of an image, two workers beside one", times, "times"))
    few_rows, many_rows = (entry["driver_peak_mb"] for entry in results["driver"])
    targets.append(Target.at_most("driver memory, 20,000 rows beside 2,000", many_rows / few_rows, 1.05, "times"))
    write_results(parsed.out, targets, results)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
