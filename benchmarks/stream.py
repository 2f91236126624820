"""Throughput of a folder of images beside the network alone, in one interleaved run on the CPU.

    python -m benchmarks.stream --out benchmarks/results/stream.json

R-50 with seeded weights, exported, at 800x1344; JPEGs of 1920x1152 made from the two golden photographs, 100 detections
in each. At each batch size, turn by turn:

* network: the backend on inputs that are ready;
* folder: `Predictor.stream` from the files to detections with RLE;
* one after the other: the same stages, one after the other; only at the first batch size,
  because it takes a fifth of the run and is asked for no target;
* condinst-predict: its detection with overlays and results file, the model being loaded.

Every way first runs a batch that does not count, and all have to find as many detections in the same images.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.targets import Target, parser_of, write_results
from benchmarks.timing import Turns, ratio
from condinst_deploy.runtime.coco_results import coco_results
from condinst_deploy.runtime.pipeline import predicted
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.recording import Destination, record
from tests.support.exports import save_r50
from tests.support.photographs import photograph

TARGET = 0.9
"""Throughput of a folder, as a share of the network's alone."""

SIZE = (1920, 1152)
"""Width and height of the originals; resized to 1333x800, padded to 1344x800."""

NETWORK, FOLDER, SERIAL, COMMAND = "network", "folder", "one after the other", "condinst-predict"


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, help="an exported model instead of R-50 with seeded weights")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    results: dict[str, Any] = {"seed": 0, "images": arguments.images, "original": SIZE}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or exported(folder)
        paths = [photograph(folder / f"{i}.jpg", ("coffee", "astronaut")[i % 2], SIZE) for i in range(arguments.images)]
        for batch in arguments.batches:
            with Predictor(model, device="cpu", batch_size=batch) as predictor:
                left_out = () if batch == arguments.batches[0] else (SERIAL,)
                results[f"batch {batch}"] = measured(predictor, paths, folder, arguments.rounds, left_out)
                show(batch, results[f"batch {batch}"])
    write_results(arguments.out, targets_of(results, arguments.batches), results)


def targets_of(results: dict[str, Any], batches: Sequence[int]) -> list[Target]:
    """Throughput of files, and of the whole command, as shares of the network's alone."""
    targets = []
    for batch in batches:
        shares = {n: row["share_of_the_networks_throughput"] for n, row in results[f"batch {batch}"].items()}
        targets.append(Target.at_least(f"folder / network alone, batch {batch}", shares[FOLDER], TARGET, ""))
        for name in (COMMAND, SERIAL):
            if name in shares:
                targets.append(Target.without(f"{name} / network alone, batch {batch}", shares[name], ""))
    return targets


def exported(folder: Path) -> Path:
    """R-50 with seeded weights as an ONNX file."""
    print("exporting R-50", flush=True)
    save_r50(folder / "r50.pth", folder / "r50.onnx")
    return folder / "r50.onnx"


def ways(predictor: Predictor, paths: Sequence[Path], folder: Path) -> dict[str, Callable[[], int]]:
    """Return the timed functions; each returns the number of detections that it found, or of images that it ran."""
    stages, size = predictor.stages, predictor.batch_size
    batches = [paths[i : i + size] for i in range(0, len(paths), size)]
    ready = [stages.collate([stages.prepare(path, path.name).inputs for path in batch]) for batch in batches]

    def network() -> int:
        return sum(len(predictor.backend.forward(inputs).on_host().scores) for inputs in ready)

    def stream() -> int:
        found = (prediction.detections for prediction in predictor.stream(list(paths)))
        return sum(len(detections.to_coco(0)) for detections in found if detections is not None)

    def serial() -> int:
        count = 0
        for batch in batches:
            for prediction in predicted(stages, batch):
                assert prediction.detections is not None
                count += len(prediction.detections.to_coco(0))
        return count

    def command() -> int:
        with coco_results(folder / "results" / "detections.json") as writer:
            record(predictor, paths, Destination(folder / "results"), writer)
        return writer.count

    return {NETWORK: network, FOLDER: stream, SERIAL: serial, COMMAND: command}


def measured(
    predictor: Predictor, paths: Sequence[Path], folder: Path, rounds: int, left_out: Sequence[str] = ()
) -> dict[str, Any]:
    """Seconds of each way, which take turns, and the network's share in them."""
    timed = {name: way for name, way in ways(predictor, paths, folder).items() if name not in left_out}
    # on one batch: what is slow the first time depends on the batch's shape, not on how many there are
    warming = ways(predictor, paths[: predictor.batch_size], folder)
    check_found({name: warming[name]() for name in timed})
    turns, found = Turns(timed), dict[str, int]()
    for number, name, count in turns.rounds(rounds):
        found[name] = count
        print(f"  round {number + 1}: {name} {turns.wall[name][-1]:.1f} s", flush=True)
        if len(found) == len(timed):
            check_found(found)
    wall, cpu = turns.wall, turns.cpu
    return {
        name: {
            "seconds": [round(value, 3) for value in wall[name]],
            "images_per_second": round(len(paths) / median(wall[name]), 3),
            "share_of_the_networks_throughput": round(ratio(wall[NETWORK], wall[name]), 3),
            "the_same_from_cpu_time": round(ratio(cpu[NETWORK], cpu[name]), 3),
            "found": found[name],
        }
        for name in timed
    }


def check_found(found: Mapping[str, int]) -> None:
    """Every way to detections found as many; the network alone counts images."""
    counts = {name: count for name, count in found.items() if name != NETWORK}
    if len(set(counts.values())) != 1:
        raise RuntimeError(f"the ways find different numbers of detections in the same images: {counts}")


def show(batch: int, rows: dict[str, Any]) -> None:
    print(f"\nbatch {batch:<18}{'images/s':>12}{'of network':>12}{'by CPU':>8}   (target: folder {TARGET})")
    for name, row in rows.items():
        shares = row["share_of_the_networks_throughput"], row["the_same_from_cpu_time"]
        print(f"{name:24}{row['images_per_second']:12.2f}{shares[0]:12.2f}{shares[1]:8.2f}")


if __name__ == "__main__":
    main()
