"""Overhead of a server: Triton with both layouts, and the FastAPI example, beside `Predictor` in one process.

    python -m benchmarks.serving_load --out benchmarks/results/serving_load.json    # after make triton-env
    python -m benchmarks.serving_tables                                             # the tables of docs/serving.md

Everything is on loopback. A closed loop: each of N threads sends its next image when its last answer is there. Images
are JPEGs of one size (uniform) or of six sizes (mixed); the slim model with seeded weights, ONNX Runtime on the CPU.

* latency: from the first byte sent until the last one read, without decoding the answer;
* throughput: answers per second;
* CPU time of an image: of the server's processes, from the kernel; the transport's share is that of `tritonserver`
  itself, without its Python models. It depends less than latency on what else the machine does, so the ratio to the
  predictor is taken from it, round by round, with further rounds at the concurrency of the target;
* the predictor in one process: with its defaults, and as it runs inside the server: threads that sleep between runs
  (`CpuThreads(spin=False)`), and batches of as many images as are in flight. The target is a ratio to the latter;
* images of a run: how many images the server merged into one execution, from its metrics.

Every answer is compared with the predictor's: one that is lost, doubled or another image's ends the benchmark.
"""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any, NamedTuple
from urllib.request import urlopen

import numpy as np
from PIL import Image

from benchmarks.targets import Target, parser_of, write_results
from condinst_deploy.imaging.encoded_image import EncodedImage
from condinst_deploy.model.checkpoints import save_model
from condinst_deploy.runtime.cores import CpuThreads
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.predictor_options import PredictorOptions
from condinst_deploy.serving.client.http import HttpTransport
from condinst_deploy.serving.protocol import BOXES, IMAGE_SIZE, LABELS, MODEL, NETWORK, RLE_COUNTS, SCORES
from condinst_deploy.serving.triton.repository import write_repository
from condinst_deploy.serving.triton.repository_settings import Layout, RepositoryOptions
from tests.support.exports import exported
from tests.support.models import IMAGES, SLIM, manifest_of, seeded_model
from tests.support.process_tree import cpu_seconds_of, descendants
from tests.support.triton_server import Server, free_ports, missing, running

CONCURRENCY = (1, 2, 4, 8, 16)
WORKLOADS = {
    "uniform": ((640, 480),),
    "mixed": ((640, 480), (480, 640), (640, 427), (500, 375), (375, 500), (640, 640)),
}
"""Width and height of the images."""

DISTINCT = 24
"""Different images of a workload."""

OUTPUTS = (BOXES, SCORES, LABELS, IMAGE_SIZE, RLE_COUNTS)
TARGET, TARGET_CONCURRENCY = 1.10, 4
"""CPU time of an image on uniform images, beside the predictor's."""

PREDICTORS = {
    "predictor, defaults": PredictorOptions(device="cpu"),
    "predictor, as served": PredictorOptions(
        device="cpu", batch_size=TARGET_CONCURRENCY, threads=CpuThreads(spin=False)
    ),
}

SINGLE, *OTHERS = ("Triton, single layout", "Triton, ensemble layout", "FastAPI")

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
    connect: Callable[[], tuple[Ask, Callable[[], None]]]  # for each thread: a separate connection, and its end
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


def in_one_process(predictor: Predictor, images: Sequence[EncodedImage], count: int) -> dict[str, float]:
    """CPU milliseconds of an image in one process, from the file's bytes to RLE, and images/s; all threads count."""
    sources = (images[number % len(images)] for number in range(count))
    cpu, started = time.process_time(), time.perf_counter()
    with closing(predictor.stream(sources)) as stream:
        for prediction in stream:
            assert prediction.detections is not None
            prediction.detections.masks.rle()
    cpu, seconds = time.process_time() - cpu, time.perf_counter() - started
    return {"cpu_ms": round(1000 * cpu / count, 3), "images_per_second": round(count / seconds, 2)}


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
            f"Triton, {layout} layout", connect, lambda answer: answer["counts"], cost, lambda: merged(server, counted)
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


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    rounds: int  # of everything
    requests: int  # of one measurement
    target_rounds: int  # further ones, at the concurrency of the target


class Bench:
    """Services and predictors of one model, and what was measured on them."""

    def __init__(self, model: Path, services: Sequence[Service], requests: int, stack: ExitStack) -> None:
        self._services, self._requests = services, requests
        self._predictors = {name: stack.enter_context(Predictor(model, o)) for name, o in PREDICTORS.items()}
        self._images = {workload: photographs(workload) for workload in WORKLOADS}
        first = next(iter(self._predictors.values()))
        self._answers = {name: [answer_of(found) for found in first(own)] for name, own in self._images.items()}
        self.loads: list[Load] = []
        self.alone: list[dict[str, Any]] = []

    def round(self, number: int, workload: str, levels: Sequence[int]) -> None:
        """Measure every predictor, then every service at these concurrencies."""
        images = self._images[workload]
        for name, predictor in self._predictors.items():
            found = in_one_process(predictor, images, self._requests)
            self.alone.append({"options": name, "workload": workload, "round": number} | found)
        for concurrency in levels:
            for service in self._services:
                wanted = [service.expected(answer) for answer in self._answers[workload]]
                values = loaded(service, images, wanted, concurrency, self._requests)
                self.loads.append(Load(service.name, workload, concurrency, number, **values))  # type: ignore[arg-type]
                print(self.loads[-1], file=sys.stderr, flush=True)


def measured(model: Path, folder: Path, plan: Plan) -> tuple[list[Load], list[dict[str, Any]]]:
    """All loads, and the predictors beside each round; the first round warms up."""
    with ExitStack() as stack:
        services = [
            stack.enter_context(triton("single", model, folder, RepositoryOptions(layout="single"))),
            stack.enter_context(triton("ensemble", model, folder, RepositoryOptions(layout="ensemble"))),
            stack.enter_context(fastapi(model)),
        ]
        bench = Bench(model, services, plan.requests, stack)
        for number in range(plan.rounds + 1):
            for workload in WORKLOADS:
                bench.round(number, workload, CONCURRENCY if number else (TARGET_CONCURRENCY,))
        for number in range(plan.rounds + 1, plan.rounds + plan.target_rounds + 1):
            bench.round(number, "uniform", (TARGET_CONCURRENCY,))
    return [load for load in bench.loads if load.round], [entry for entry in bench.alone if entry["round"]]


class Ratios:
    """CPU time of an image at the concurrency of the target, a service's beside a predictor's; median of the rounds."""

    def __init__(self, loads: Sequence[Load], alone: Sequence[dict[str, Any]]) -> None:
        self._loads = [x for x in loads if (x.workload, x.concurrency) == ("uniform", TARGET_CONCURRENCY)]
        self._alone = {(x["options"], x["round"]): x["cpu_ms"] for x in alone if x["workload"] == "uniform"}

    def of(self, service: str, predictor: str, kind: str = "cpu_ms") -> float:
        """The ratio of a service, or of a part of its time."""
        own = {load.round: float(getattr(load, kind)) for load in self._loads if load.service == service}
        return float(median(value / self._alone[predictor, number] for number, value in own.items()))


def targets_of(loads: Sequence[Load], alone: Sequence[dict[str, Any]]) -> list[Target]:
    """The target, and what helps to read it."""
    ratios, (defaults, served) = Ratios(loads, alone), PREDICTORS
    what, unit = f"CPU time of an image at concurrency {TARGET_CONCURRENCY}", "of the predictor's"
    share = ratios.of(SINGLE, served, "transport_cpu_ms")
    return [
        Target.at_most(f"{what}, {SINGLE}, beside the {served}", ratios.of(SINGLE, served), TARGET, unit),
        Target.without(f"of it in the process that speaks HTTP, {SINGLE}", share, unit),
        *(Target.without(f"{what}, {name}, beside the {served}", ratios.of(name, served), unit) for name in OTHERS),
        *(
            Target.without(f"{what}, {name}, beside the {defaults}", ratios.of(name, defaults), unit)
            for name in (SINGLE, *OTHERS)
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write JSON."""
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--target-rounds", type=int, default=6, help="further rounds, at the concurrency of the target")
    parser.add_argument("--requests", type=int, default=96)
    parsed = parser.parse_args(arguments)
    if missing():
        raise SystemExit(f"error: {missing()}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "slim.pth", seeded_model(), manifest_of(SLIM))
        model = exported(folder / "slim.pth", folder / "slim.onnx")
        plan = Plan(parsed.rounds, parsed.requests, parsed.target_rounds)
        loads, alone = measured(model, folder, plan)
    targets = targets_of(loads, alone)
    write_results(parsed.out, targets, {"predictors": alone, "loads": [asdict(load) for load in loads]})
    print(json.dumps([asdict(target) for target in targets], indent=1))


if __name__ == "__main__":
    main()
