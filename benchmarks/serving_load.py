"""Overhead of a server: Triton with both layouts, and the FastAPI example, beside `Predictor` in one process.

    python -m benchmarks.serving_load --out benchmarks/results/serving_load.json    # after make triton-env
    python -m benchmarks.serving_load --table                                       # the tables of docs/serving.md

Everything is on loopback. A closed loop: each of N threads sends its next image when its last answer is there. Images
are JPEGs of one size (uniform) or of six sizes (mixed); the slim model with seeded weights, ONNX Runtime on the CPU.

* latency: from the first byte sent until the last one read, without decoding the answer;
* throughput: answers per second;
* CPU time of an image: of the server's processes, from the kernel; the transport's share is that of `tritonserver`
  itself, without its Python models. It hardly depends on what else the machine does, so the ratio to the predictor is
  taken from it, round by round;
* images of a run: how many images the server merged into one execution, from its metrics.

Every answer is compared with the predictor's: one that is lost, doubled or another image's ends the benchmark.
"""

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any, NamedTuple
from urllib.request import urlopen

import numpy as np
from PIL import Image

from benchmarks.serving_tables import draw_load, tables
from benchmarks.targets import Target, write_results
from condinst_deploy.imaging.decode import EncodedImage
from condinst_deploy.model.checkpoints import save_model
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.serving.client.http import HttpTransport
from condinst_deploy.serving.protocol import BOXES, IMAGE_SIZE, LABELS, MODEL, NETWORK, RLE_COUNTS, SCORES
from condinst_deploy.serving.triton.repository import write_repository
from condinst_deploy.serving.triton.settings import Layout, RepositoryOptions
from tests.support.exports import exported
from tests.support.models import IMAGES, SLIM, manifest_of, seeded_model
from tests.support.process_tree import cpu_seconds_of, descendants
from tests.support.triton_server import Server, free_ports, missing, running

RESULTS = Path(__file__).parent / "results" / "serving_load.json"
CONCURRENCY = (1, 2, 4, 8, 16)
WORKLOADS = {
    "uniform": ((640, 480),),
    "mixed": ((640, 480), (480, 640), (640, 427), (500, 375), (375, 500), (640, 640)),
}
"""Width and height of the images."""

DISTINCT = 24
"""Different images of a workload."""

OUTPUTS = (BOXES, SCORES, LABELS, IMAGE_SIZE, RLE_COUNTS)
BAR = 1.10
"""CPU time of an image at concurrency 4 on uniform images, beside the predictor's."""

Ask = Callable[[bytes], Any]
"""Sends an image, and returns what of the answer is compared."""


class Cost(NamedTuple):
    """CPU seconds so far."""

    transport: float  # of the process that handles HTTP
    models: float  # of the processes with the models; 0 where there is one process


@dataclass(frozen=True)
class Service:
    """A server under load."""

    name: str
    connect: Callable[[], tuple[Ask, Callable[[], None]]]  # for each thread: a connection of its own, and its end
    expected: Callable[[dict[str, Any]], Any]  # what `Ask` has to return, from the predictor's answer
    cost: Callable[[], Cost]
    runs: Callable[[], tuple[float, float]]  # images and executions so far; zeros if they are not counted


@dataclass(frozen=True)
class Load:
    """One measurement."""

    service: str
    workload: str
    concurrency: int
    round: int
    requests: int
    images_per_second: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    cpu_ms: float  # of an image, all processes of the server
    transport_cpu_ms: float  # of it, in the process that handles HTTP
    images_of_a_run: float  # 0: not counted


def photographs(workload: str) -> list[EncodedImage]:
    """Different JPEGs of the workload's sizes, made from one photograph."""
    images = []
    with Image.open(IMAGES / "coffee.png") as photograph:
        whole = photograph.convert("RGB")
    for number in range(DISTINCT):
        size = WORKLOADS[workload][number % len(WORKLOADS[workload])]
        with tempfile.SpooledTemporaryFile() as stream:
            box = (number, number, whole.width - number, whole.height - number)
            whole.resize(size, box=box).save(stream, "JPEG", quality=90)
            stream.seek(0)
            images.append(EncodedImage(f"{workload}-{number}", stream.read()))
    return images


def answer_of(found: Any) -> dict[str, Any]:
    """Reference for a server's answers."""
    return {"counts": [rle["counts"] for rle in found.masks.rle()], "coco": found.to_coco(image_id=0)}


def predictor_cpu_ms(predictor: Predictor, images: Sequence[EncodedImage], count: int) -> float:
    """CPU milliseconds of an image in one process, from the file's bytes to RLE; all threads count."""
    sources = (images[number % len(images)] for number in range(count))
    started = time.process_time()
    with closing(predictor.stream(sources)) as stream:
        for prediction in stream:
            assert prediction.detections is not None
            prediction.detections.masks.rle()
    return 1000 * (time.process_time() - started) / count


def loaded(
    service: Service, images: Sequence[EncodedImage], wanted: Sequence[Any], concurrency: int, count: int
) -> dict[str, float]:
    """Put a load on a service, and check every answer.

    Raises:
        SystemExit: an answer is missing or wrong.
    """
    shares = [range(thread, count, concurrency) for thread in range(concurrency)]
    latencies: list[list[float]] = [[] for _ in shares]
    wrong: list[str] = []

    def work(share: range, own: list[float]) -> None:
        try:
            ask, close = service.connect()
            for number in share:
                started = time.perf_counter()
                answer = ask(images[number % len(images)].content)
                own.append(time.perf_counter() - started)
                if answer != wanted[number % len(images)]:
                    wrong.append(f"the answer of request {number} is another one")
            close()
        except Exception as e:  # whatever it is, the measurement is void
            wrong.append(f"{type(e).__name__}: {e}")

    threads = [Thread(target=work, args=pair) for pair in zip(shares, latencies, strict=True)]
    cost, (merged, runs), started = service.cost(), service.runs(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, after, (merged_after, runs_after) = time.perf_counter() - started, service.cost(), service.runs()
    times = np.array([latency for own in latencies for latency in own])
    if wrong or len(times) != count:
        raise SystemExit(
            f"error: {service.name}, concurrency {concurrency}: {len(times)} answers of {count}; {wrong[:3]}"
        )
    transport, models = after.transport - cost.transport, after.models - cost.models
    p50, p95, p99 = (round(1000 * float(np.percentile(times, share)), 2) for share in (50, 95, 99))
    return {
        "requests": count,
        "images_per_second": round(count / seconds, 2),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "cpu_ms": round(1000 * (transport + models) / count, 3),
        "transport_cpu_ms": round(1000 * transport / count, 3),
        "images_of_a_run": round((merged_after - merged) / (runs_after - runs), 2) if runs_after > runs else 0.0,
    }


@contextmanager
def triton(layout: Layout, model: Path, folder: Path, options: RepositoryOptions) -> Iterator[Service]:
    """A Triton server with a repository of a layout."""
    with running(write_repository(model, folder / f"repo-{layout}", options), folder) as server:
        counted = MODEL if layout == "single" else NETWORK

        def connect() -> tuple[Ask, Callable[[], None]]:
            transport = HttpTransport(server.http, 120.0)

            def ask(content: bytes) -> list[bytes]:
                return [bytes(c) for c in transport.infer(MODEL, content, {}, OUTPUTS).arrays[RLE_COUNTS][0]]

            return ask, transport.close

        def cost() -> Cost:
            return Cost(cpu_seconds_of(server.process.pid), sum(map(cpu_seconds_of, server.stubs())))

        yield Service(
            f"Triton, {layout}", connect, lambda answer: answer["counts"], cost, lambda: merged(server, counted)
        )


def merged(server: Server, model: str) -> tuple[float, float]:
    """Images and executions of a model of a server, so far."""
    lines = [line.split() for line in server.metrics().splitlines() if f'model="{model}"' in line]
    values = {name.partition("{")[0]: float(value) for name, value in lines}
    return values.get("nv_inference_count", 0.0), values.get("nv_inference_exec_count", 0.0)


@contextmanager
def fastapi(model: Path) -> Iterator[Service]:
    """The example service."""
    (port,) = free_ports(1)
    code = f"import uvicorn; from examples.serve import app; uvicorn.run(app, port={port}, log_level='error')"
    environment = os.environ | {"MODEL": str(model)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
        try:
            wait_for(f"http://127.0.0.1:{port}/openapi.json", process)

            def connect() -> tuple[Ask, Callable[[], None]]:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

                def ask(content: bytes) -> Any:
                    connection.request("POST", "/predict", content)
                    return json.loads(connection.getresponse().read())

                return ask, connection.close

            family = [process.pid, *descendants(process.pid)]
            yield Service(
                "FastAPI",
                connect,
                lambda answer: answer["coco"],
                lambda: Cost(sum(map(cpu_seconds_of, family)), 0.0),
                lambda: (0.0, 0.0),
            )
        finally:
            process.terminate()


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("error: the example server did not start")


def measured(model: Path, folder: Path, rounds: int, requests: int) -> tuple[list[Load], list[dict[str, Any]]]:
    """All loads, and CPU time of the predictor beside each round."""
    loads, predictors = list[Load](), list[dict[str, Any]]()
    images = {workload: photographs(workload) for workload in WORKLOADS}
    with Predictor(model, device="cpu") as predictor, Predictor(model, device="cpu", batch_size=8) as batches:
        answers = {name: [answer_of(found) for found in predictor(own)] for name, own in images.items()}
        with (
            triton("single", model, folder, RepositoryOptions(layout="single")) as single,
            triton("ensemble", model, folder, RepositoryOptions(layout="ensemble")) as ensemble,
            fastapi(model) as example,
        ):
            services = (single, ensemble, example)
            for number in range(rounds + 1):  # the first round warms up
                for workload, own in images.items():
                    alone = {
                        f"batch {batch}": round(predictor_cpu_ms(one, own, requests), 3)
                        for batch, one in ((1, predictor), (8, batches))
                    }
                    predictors.append({"workload": workload, "round": number, **alone})
                    for concurrency in CONCURRENCY if number else (4,):
                        for service in services:
                            wanted = [service.expected(answer) for answer in answers[workload]]
                            found = loaded(service, own, wanted, concurrency, requests)
                            loads.append(Load(service.name, workload, concurrency, number, **found))  # type: ignore[arg-type]
                            print(loads[-1], flush=True)
    return [load for load in loads if load.round], [entry for entry in predictors if entry["round"]]


def ratio(loads: Sequence[Load], predictors: Sequence[dict[str, Any]], service: str, kind: str = "cpu_ms") -> float:
    """CPU time of an image beside the predictor's, uniform images, concurrency 4; median of the rounds."""
    beside = {
        entry["round"]: min(entry["batch 1"], entry["batch 8"])
        for entry in predictors
        if entry["workload"] == "uniform"
    }
    own = {
        load.round: getattr(load, kind)
        for load in loads
        if (load.service, load.workload, load.concurrency) == (service, "uniform", 4)
    }
    return median(float(own[number]) / float(beside[number]) for number in own)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write JSON and the plot, or print the tables of a results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="file for the results")
    parser.add_argument("--table", action="store_true", help="print the tables of the committed results")
    parser.add_argument("--plot", type=Path, help="file for the plot of the committed results, PNG")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=120)
    parsed = parser.parse_args(arguments)
    if parsed.table or parsed.plot:
        results = json.loads(RESULTS.read_text())
        print(tables(results), end="")
        if parsed.plot:
            draw_load(results, parsed.plot)
        return
    if missing():
        raise SystemExit(f"error: {missing()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "slim.pth", seeded_model(), manifest_of(SLIM))
        model = exported(folder / "slim.pth", folder / "slim.onnx")
        loads, predictors = measured(model, folder, parsed.rounds, parsed.requests)
    targets = [
        Target.at_most(
            f"CPU time of an image, {name}, concurrency 4", ratio(loads, predictors, name), BAR, "of the predictor's"
        )
        for name in ("Triton, single", "Triton, ensemble")
    ]
    targets.append(
        Target.without(
            "CPU time of an image, FastAPI, concurrency 4", ratio(loads, predictors, "FastAPI"), "of the predictor's"
        )
    )
    share = ratio(loads, predictors, "Triton, single", "transport_cpu_ms")
    targets.append(Target.without("of it in tritonserver itself, single", share, "of the predictor's"))
    metrics = {"predictor_cpu_ms": predictors, "loads": [asdict(load) for load in loads]}
    if parsed.out:
        write_results(parsed.out, targets, metrics)
    print(json.dumps([asdict(target) for target in targets], indent=1))


if __name__ == "__main__":
    main()
