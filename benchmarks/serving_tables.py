"""Tables and the plot of docs/serving.md, from a results file of `benchmarks.serving_load`."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from condinst_deploy.support.atomic_write import atomic_path

Results = dict[str, Any]


def value_of(results: Results, kind: str, service: str, workload: str, concurrency: int) -> float:
    """Median of the rounds of one measurement."""
    place = (service, workload, concurrency)
    loads = results["loads"]
    return median(float(x[kind]) for x in loads if (x["service"], x["workload"], x["concurrency"]) == place)


def tables(results: Results) -> str:
    """Tables in Markdown: latency and throughput, then CPU time of an image."""
    services, workloads, levels = (distinct(results, key) for key in ("service", "workload", "concurrency"))
    parts = []
    for workload in workloads:
        head = [
            "in flight",
            *(f"{name}: images/s" for name in services),
            *(f"{name}: p50 / p95 / p99 ms" for name in services),
        ]
        rows = [
            [
                str(level),
                *(f"{value_of(results, 'images_per_second', name, workload, level):.1f}" for name in services),
                *(
                    " / ".join(
                        f"{value_of(results, kind, name, workload, level):.0f}"
                        for kind in ("p50_ms", "p95_ms", "p99_ms")
                    )
                    for name in services
                ),
            ]
            for level in levels
        ]
        parts.append(f"Images {workload}:\n\n{table(head, rows)}")
    head = [
        "in flight",
        "images",
        "predictor",
        *services,
        "of it tritonserver (single)",
        "images of a run (single, ensemble)",
    ]
    rows = []
    for workload in workloads:
        own = [entry for entry in results["predictor_cpu_ms"] if entry["workload"] == workload]
        alone = median(min(entry["batch 1"], entry["batch 8"]) for entry in own)
        rows += [
            [
                str(level),
                workload,
                f"{alone:.1f} ms",
                *(f"{value_of(results, 'cpu_ms', name, workload, level):.1f} ms" for name in services),
                f"{value_of(results, 'transport_cpu_ms', services[0], workload, level):.1f} ms",
                ", ".join(
                    f"{value_of(results, 'images_of_a_run', name, workload, level):.1f}" for name in services[:2]
                ),
            ]
            for level in levels
        ]
    parts.append(f"CPU time of an image:\n\n{table(head, rows)}")
    return "\n\n".join(parts) + "\n"


def distinct(results: Results, key: str) -> list[Any]:
    """Values of the loads in the order of their first appearance."""
    return list(dict.fromkeys(load[key] for load in results["loads"]))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows))


def draw_load(results: Results, path: Path) -> None:
    """Draw throughput and latency over the number of images in flight."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    services, levels = distinct(results, "service"), distinct(results, "concurrency")
    for axes, kind, title in zip(
        figure.subplots(1, 2), ("images_per_second", "p95_ms"), ("images/s", "95 % answered within, ms"), strict=True
    ):
        for number, service in enumerate(services):
            for workload, style in (("uniform", "-"), ("mixed", "--")):
                values = [value_of(results, kind, service, workload, level) for level in levels]
                axes.plot(levels, values, style, color=f"C{number}", marker="o", label=f"{service}, {workload}")
        axes.set(title=title, xlabel="images in flight", xscale="log", ylim=(0, None))
        axes.set_xticks(levels, [str(level) for level in levels])
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize=7)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90, pil_kwargs={"optimize": True})
