"""Tables and the plot of docs/serving.md, from the results that are committed.

python -m benchmarks.serving_tables            # write the document and the plot anew
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from benchmarks.markdown import RESULTS, content_of, measured_on, table
from condinst_deploy.support.atomic_write import atomic_path

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "serving.md"
PLOT = ROOT / "docs" / "images" / "serving_load.png"
BLOCK = re.compile(r"(<!-- (load|transport) -->\n).*?(<!-- /\2 -->)", re.DOTALL)

Results = dict[str, Any]


def filled(document: str, results: Path = RESULTS) -> str:
    """The document with its tables made anew."""

    def block(found: re.Match[str]) -> str:
        file, make = TABLES[found[2]]
        path = results / file
        if not path.is_file():
            return f"{found[1]}*Not measured yet.*\n{found[3]}"
        content = content_of(path)
        return f"{found[1]}\n{make(content)}\n\n{measured_on(content, file)}\n\n{found[3]}"

    return BLOCK.sub(block, document)


def load_tables(results: Results) -> str:
    """Throughput, latency and CPU time of every service."""
    services, predictors = distinct(results["loads"], "service"), distinct(results["predictors"], "options")

    def rows(shown: Callable[[str, str, int], str]) -> list[list[str]]:
        places = [(w, c) for w in distinct(results["loads"], "workload") for c in distinct_levels(results)]
        return [[w, str(c), *(shown(name, w, c) for name in services)] for w, c in places]

    def rate(name: str, workload: str, level: int) -> str:
        return f"{value_of(results, 'images_per_second', name, workload, level):.1f}"

    def latency(name: str, workload: str, level: int) -> str:
        kinds = ("p50_ms", "p95_ms", "p99_ms")
        return " / ".join(f"{value_of(results, kind, name, workload, level):.0f}" for kind in kinds)

    def cost(name: str, workload: str, level: int) -> str:
        whole, transport, merged = (
            value_of(results, kind, name, workload, level) for kind in ("cpu_ms", "transport_cpu_ms", "images_of_a_run")
        )
        return f"{whole:.1f}, {transport:.1f}, {merged:.1f}" if merged else f"{whole:.1f}"

    alone = [
        [name, workload, f"{own(results, name, workload, 'images_per_second'):.1f}", f"{cpu:.1f}"]
        for name in predictors
        for workload in distinct(results["loads"], "workload")
        for cpu in [own(results, name, workload, "cpu_ms")]
    ]
    head = ["images", "in flight", *services]
    return "\n\n".join(
        (
            "In one process:",
            table(["", "images", "images/s", "CPU ms of an image"], alone),
            "Images/s:",
            table(head, rows(rate)),
            "Latency, p50 / p95 / p99 in ms:",
            table(head, rows(latency)),
            "CPU time of an image in ms; for Triton also the part of `tritonserver`, and requests of one execution:",
            table(head, rows(cost)),
        )
    )


def transport_table(results: Results) -> str:
    """One row for each size: bytes and CPU time of each form of the masks."""
    rows = results["rows"]
    cells = {(row["size"], row["form"]): f"{shown_bytes(row['bytes'])}, {row['cpu_ms']:.1f} ms" for row in rows}
    forms = distinct(rows, "form")
    return table(["image", *forms], [[size, *(cells[size, form] for form in forms)] for size in distinct(rows, "size")])


TABLES: dict[str, tuple[str, Callable[[Results], str]]] = {
    "load": ("serving_load.json", load_tables),
    "transport": ("mask_transport.json", transport_table),
}


def shown_bytes(count: int) -> str:
    """Bytes in the largest unit that fits."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} bytes"


def value_of(results: Results, kind: str, service: str, workload: str, concurrency: int) -> float:
    """Median of the rounds of one measurement."""
    place = (service, workload, concurrency)
    loads = results["loads"]
    return median(float(x[kind]) for x in loads if (x["service"], x["workload"], x["concurrency"]) == place)


def own(results: Results, options: str, workload: str, kind: str) -> float:
    """Median of the rounds of a predictor in one process."""
    entries = results["predictors"]
    return median(float(x[kind]) for x in entries if (x["options"], x["workload"]) == (options, workload))


def distinct(rows: Sequence[dict[str, Any]], key: str) -> list[str]:
    """Values in the order of their first appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def distinct_levels(results: Results) -> list[int]:
    """Numbers of images in flight."""
    return sorted({load["concurrency"] for load in results["loads"]})


def draw_load(results: Results, path: Path) -> None:
    """Draw throughput and latency over the number of images in flight."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    services, levels = distinct(results["loads"], "service"), distinct_levels(results)
    kinds = (("images_per_second", "images/s"), ("p95_ms", "95 % answered within, ms"))
    for axes, (kind, title) in zip(figure.subplots(1, 2), kinds, strict=True):
        for number, service in enumerate(services):
            for workload, style in (("uniform", "-"), ("mixed", "--")):
                values = [value_of(results, kind, service, workload, level) for level in levels]
                axes.plot(levels, values, style, color=f"C{number}", marker="o", label=f"{service}, {workload}")
        axes.set(title=title, xlabel="images in flight", xscale="log", ylim=(0, None))
        axes.set_xticks(levels, [str(level) for level in levels])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    for number, options in enumerate(distinct(results["predictors"], "options")):
        rate = own(results, options, "uniform", "images_per_second")
        figure.axes[0].axhline(rate, color="0.4", linestyle=(":", "-.")[number % 2], label=options)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), fontsize=7, loc="outside right upper")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90, pil_kwargs={"optimize": True}, metadata={"Software": None})


def main() -> None:
    """Write document and plot."""
    with atomic_path(DOCUMENT) as temporary:
        temporary.write_text(filled(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    draw_load(content_of(RESULTS / "serving_load.json"), PLOT)


if __name__ == "__main__":
    main()
