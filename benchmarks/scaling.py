"""A model of throughput and cost of batch runs on N GPU servers, and a simulation of workers that die.

    python -m benchmarks.scaling                               # the tables of docs/scaling.md
    python -m benchmarks.scaling --gpu-images 400 --network-gbit 100 --servers 1 8 64

The model divides what a server has (cores, GPU, network card) and what the site has (storage, one driver) by what an
image needs. The least quotient is the throughput, and its name says what binds. CPU times, bytes and the driver's time
come from benchmarks/results/batch_runs.json; the rate of the GPU, prices and capacities are parameters, which are
assumptions until somebody measures them.

The simulation draws lives of workers, which do shards until they die, and counts the work that is done twice.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from benchmarks.markdown import RESULTS, content_of, table
from benchmarks.targets import parser_of

BATCH_RUNS = RESULTS / "batch_runs.json"
DAY = 86_400
BILLION = 1e9
SHARD_SIZES = (16, 64, 256, 512, 1024, 4096, 16_384)
LOSSES_AN_HOUR = (0.001, 0.05, 1.0)
"""Of a worker: a server that fails every six weeks, a spot instance, a spot instance in a bad hour."""


@dataclass(frozen=True)
class Measured:
    """Measured costs of an image and of a shard, on the machine of the results file."""

    decode_ms: float  # CPU
    resize_ms: float  # CPU
    row_ms: float  # CPU: masks to RLE, row, compression
    bytes_in: float
    bytes_out: float
    shard_ms: float  # of a shard that is not work: Ray, the driver
    driver_ms: float  # CPU, of the driver for a shard


@dataclass(frozen=True)
class Site:
    """Assumptions about servers and storage."""

    gpu_images: float = 300.0  # images/s that a GPU's network does
    gpus: int = 1  # of a server
    cores: int = 16
    network_gbit: float = 25.0  # of a server
    storage_gbit: float = 400.0  # that the object store gives to all servers
    price: float = 2.5  # of a server, currency units an hour
    loss_an_hour: float = 0.05  # workers that die, of one worker
    reload_seconds: float = 20.0  # until a new worker is ready
    shard_size: int = 512

    def __post_init__(self) -> None:
        """Refuse what cannot be divided by."""
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise SystemExit(f"error: {field.name} is {getattr(self, field.name)}; expected more than 0")


def measured_from(path: Path = BATCH_RUNS) -> Measured:
    """Metrics of a results file of `benchmarks.batch_runs`."""
    values = content_of(path)
    stages = values["stages"]
    return Measured(
        decode_ms=stages["decode_ms"],
        resize_ms=stages["resize_ms"],
        row_ms=stages["row_ms"],
        bytes_in=stages["bytes_in"],
        bytes_out=stages["bytes_out"],
        shard_ms=values["driver"][-1]["not_work_ms_a_shard"],
        driver_ms=values["driver"][-1]["driver_cpu_ms_a_shard"],
    )


def limits(measured: Measured, site: Site, servers: int) -> dict[str, float]:
    """Images per second that each part of the site allows."""
    cpu_seconds = (measured.decode_ms + measured.resize_ms + measured.row_ms) / 1000
    transferred = 8 * (measured.bytes_in + measured.bytes_out)  # bits
    return {
        "GPU": servers * site.gpus * site.gpu_images,
        "decoding (CPU)": servers * site.cores / cpu_seconds,
        "network card": servers * site.network_gbit * 1e9 / transferred,
        "storage": site.storage_gbit * 1e9 / transferred,
        "driver": site.shard_size / (measured.driver_ms / 1000),
    }


def efficiency(measured: Measured, site: Site, shard_size: int) -> float:
    """Share of a worker's time that ends in a part: less the time between shards, and the work that is done twice."""
    work = shard_size / worker_rate(measured, site)
    return 1 / (1 + measured.shard_ms / 1000 / work + lost_share(work, site.loss_an_hour, site.reload_seconds))


def worker_rate(measured: Measured, site: Site) -> float:
    """Images per second of one worker, which has a GPU and its share of the server."""
    one = limits(measured, site, 1)
    return min(one[name] for name in ("GPU", "decoding (CPU)", "network card")) / site.gpus


def lost_share(work_seconds: float, loss_an_hour: float, reload_seconds: float) -> float:
    """Expected time that is lost for each second of work, workers with exponential lives.

    A shard of T seconds is done again until it comes through: it takes (e^(rT) - 1) / r instead of T, and each of the
    e^(rT) - 1 deaths costs a reload, too.
    """
    rate = loss_an_hour / 3600
    deaths = math.expm1(rate * work_seconds)
    return (deaths / rate + deaths * reload_seconds) / work_seconds - 1


def simulated_lost_share(work_seconds: float, loss_an_hour: float, lives: int = 100_000, seed: int = 0) -> float:
    """Share of work done twice, from the lives of workers drawn at random; reloading is not counted.

    A worker does whole shards of `work_seconds` until it dies, and what it did of the last one is lost.
    """
    rng = np.random.default_rng(seed)
    spans = rng.exponential(3600 / loss_an_hour, lives)  # seconds
    lost = np.fmod(spans, work_seconds)
    return float(lost.sum() / (spans - lost).sum())


def best_shard_size(measured: Measured, site: Site) -> int:
    """The power of two at which a worker's efficiency is largest."""
    sizes = [1 << i for i in range(21)]
    return max(sizes, key=lambda size: efficiency(measured, site, size))


def measured_rows(measured: Measured) -> Iterator[list[str]]:
    """Rows of the table of measurements: what, for an image, for a shard."""
    yield ["decode (CPU)", f"{measured.decode_ms:.2f} ms", ""]
    yield ["resize (CPU)", f"{measured.resize_ms:.2f} ms", ""]
    yield ["masks to RLE, row (CPU)", f"{measured.row_ms:.2f} ms", ""]
    yield ["bytes in", f"{measured.bytes_in:,.0f}", ""]
    yield ["bytes out", f"{measured.bytes_out:,.0f}", ""]
    yield ["wait of a worker between shards (Ray, driver)", "", f"{measured.shard_ms:.2f} ms"]
    yield ["driver (CPU)", "", f"{measured.driver_ms:.2f} ms"]


def throughput_rows(measured: Measured, site: Site, counts: Sequence[int]) -> Iterator[list[str]]:
    """Rows of the table of throughput: servers, images/s, images a day, what binds, cost of a million images."""
    share = efficiency(measured, site, site.shard_size)
    for servers in counts:
        allowed = limits(measured, site, servers)
        binds = min(allowed, key=lambda name: allowed[name])
        rate = share * allowed[binds]
        cost = servers * site.price / (rate * 3600) * 1e6
        yield [f"{servers:,}", f"{rate:,.0f}", f"{rate * DAY / 1e6:,.1f} million", binds, f"{cost:.2f}"]


def servers_for(measured: Measured, site: Site, images_a_day: float) -> int | None:
    """Servers that reach so many images a day; None if storage or the driver do not allow it."""
    wanted = images_a_day / DAY / efficiency(measured, site, site.shard_size)
    if wanted > min(limits(measured, site, 1)[name] for name in ("storage", "driver")):
        return None
    return math.ceil(wanted / (worker_rate(measured, site) * site.gpus))


def most_servers(measured: Measured, site: Site, shared: str) -> int:
    """Servers up to which a shared part, the driver or storage, does not bind."""
    return math.floor(limits(measured, site, 1)[shared] / (worker_rate(measured, site) * site.gpus))


def failure_rows(measured: Measured, site: Site) -> Iterator[list[str]]:
    """Rows of the table of failures: shard size, seconds, work done twice at each rate of losses, efficiency."""
    for size in SHARD_SIZES:
        work = size / worker_rate(measured, site)
        shares = [simulated_lost_share(work, loss) for loss in LOSSES_AN_HOUR]
        each = [
            f"{100 * efficiency(measured, replace(site, loss_an_hour=loss), size):.2f} %" for loss in LOSSES_AN_HOUR
        ]
        yield [f"{size:,}", f"{work:.1f}", *(f"{100 * share:.3f} %" for share in shares), *each]


def tables(measured: Measured, site: Site, counts: Sequence[int]) -> str:
    """All tables as Markdown."""
    allowed = limits(measured, site, 1)
    parts = [
        table(["measured", "an image", "a shard"], measured_rows(measured)),
        table(["one server: limit", "images/s"], [[name, f"{value:,.0f}"] for name, value in allowed.items()]),
        table(
            ["servers", "images/s", "images a day", "binds", "cost of a million"],
            throughput_rows(measured, site, counts),
        ),
        table(
            ["shard", "seconds"]
            + [f"done twice, {loss:g} losses/h" for loss in LOSSES_AN_HOUR]
            + [f"efficiency, {loss:g} losses/h" for loss in LOSSES_AN_HOUR],
            failure_rows(measured, site),
        ),
    ]
    decoding, card = allowed["decoding (CPU)"], allowed["network card"]
    beyond = {name: most_servers(measured, site, name) for name in ("driver", "storage")}
    parts.append(
        f"What binds next: in a server decoding, from {decoding:,.0f} images/s of its GPUs, and the network card, from"
        f" {card:,.0f}; of the site the driver, beyond {beyond['driver']:,} such servers, and storage, beyond"
        f" {beyond['storage']:,}."
    )
    needed = servers_for(measured, site, BILLION)
    answer = "is out of reach: storage or the driver binds" if needed is None else f"needs {needed:,} servers"
    best = [f"{best_shard_size(measured, replace(site, loss_an_hour=loss)):,}" for loss in LOSSES_AN_HOUR]
    rates = ", ".join(f"{loss:g}" for loss in LOSSES_AN_HOUR)
    parts.append(f"A billion images a day {answer}. Best shard sizes at {rates} losses an hour: {'; '.join(best)}.")
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables for the given assumptions."""
    parser = parser_of(__doc__, out=False)
    parser.add_argument("--results", type=Path, default=BATCH_RUNS, help="of benchmarks.batch_runs")
    parser.add_argument("--servers", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    for field in fields(Site):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parsed = parser.parse_args(arguments)
    site = Site(**{field.name: getattr(parsed, field.name) for field in fields(Site)})
    print(tables(measured_from(parsed.results), site, parsed.servers), end="")


if __name__ == "__main__":
    main()
