"""Fill the tables of docs/performance.md from the results that are committed.

    python -m benchmarks.performance_tables            # rewrite the document
    python -m benchmarks.performance_tables --check    # exit status 1 where document and results differ

A table stands between `<!-- results: NAME -->` and `<!-- /results -->`; NAME is a results file without its ending,
whose targets are shown, or one of the sweeps. What is not measured yet says so, and which command measures it.
"""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.markdown import RESULTS, content_of, measured_on, table
from benchmarks.targets import Target, read_targets

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "performance.md"
BLOCK = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- /results -->)", re.DOTALL)

VERDICTS = {True: "met", False: "**missed**", None: ""}

Metrics = dict[str, Any]
Rows = list[dict[str, Any]]


def filled(document: str, results: Path) -> str:
    """Return the document with all tables rewritten."""
    return BLOCK.sub(lambda block: f"{block[1]}\n{table_of(block[2], results)}\n\n{block[3]}", document)


def table_of(name: str, results: Path) -> str:
    """One table, and what it was measured on."""
    file, _, sweep = name.partition(".")
    path = results / f"{file}.json"
    if not path.is_file():
        return f"*Not measured yet: `python -m benchmarks.{file} --out benchmarks/results/{file}.json`.*"
    content = content_of(path)
    shown = SWEEPS[sweep](content) if sweep else target_table(read_targets(path))
    plot = f"![The same as plots](images/sweep_{sweep}.png)\n\n" if sweep else ""
    return f"{shown}\n\n{plot}{measured_on(content, path.name)}"


def target_table(targets: Sequence[Target]) -> str:
    """Metric beside target."""
    if not targets:
        return "*No targets in this file.*"
    rows = (
        (target.name, f"{target.measured:g} {target.unit}".strip(), target.target, VERDICTS[target.met])
        for target in targets
    )
    return table(("metric", "measured", "target", ""), rows)


def instance_table(content: Metrics) -> str:
    """Masks and mask head by instances, with the cost of one more."""
    rows: Rows = content["instances"]
    names = {"masks_ms": "masks to RLE", "mask_head_ms": "dynamic mask head (eager)"}
    return "\n\n".join(
        (
            _columns(rows, ("instances", "masks_ms", "dense_ms", "dense_over_masks", "mask_head_ms")),
            _fits(rows, "instances", names, "instance"),
        )
    )


def original_table(content: Metrics) -> str:
    """Masks and resizing by the size of the original, with the cost of one more megapixel."""
    rows: Rows = content["originals"]
    shown = [row | {"original": f"{row['width']}x{row['height']}"} for row in rows]
    names = {"masks_ms": "masks to RLE of 100 instances", "resize_ms": "resize and pad"}
    return "\n\n".join(
        (
            _columns(shown, ("original", "megapixels", "masks_ms", "dense_ms", "dense_over_masks", "resize_ms")),
            _fits(rows, "megapixels", names, "megapixel"),
        )
    )


def network_table(content: Metrics) -> str:
    """R-50 and the slim model by threads and batch."""
    keys = ("model", "threads", "batch", "calls", "network_ms", "post_ms", "peak_mb")
    models = {"full": "R-50, 800x1344", "slim": "slim"}
    return _columns([row | {"model": models[name]} for name in models for row in content[name]], keys)


SWEEPS: dict[str, Callable[[Metrics], str]] = {
    "instances": instance_table,
    "originals": original_table,
    "network": network_table,
}

HEADINGS = {
    "masks_ms": "ours, ms",
    "dense_ms": "dense reference, ms",
    "dense_over_masks": "dense / ours",
    "mask_head_ms": "mask head (eager), ms",
    "resize_ms": "resize and pad, ms",
    "network_ms": "network, ms an image",
    "post_ms": "masks and RLE, ms an image",
    "peak_mb": "peak memory, MB",
}


def _columns(rows: Rows, keys: Sequence[str]) -> str:
    return table([HEADINGS.get(key, key) for key in keys], ([_cell(row[key]) for key in keys] for row in rows))


def _fits(rows: Rows, over: str, names: dict[str, str], unit: str) -> str:
    """Least-squares lines: what one more costs, and how much of the differences the line explains."""
    x = [row[over] for row in rows]
    fits = ((name, *linear_fit(x, [row[key] for row in rows])) for key, name in names.items())
    said = (f"{name} {slope:.3g} ms (R² {explained:.3f})" for name, slope, _, explained in fits)
    return f"One {unit} more costs, by least squares: {', '.join(said)}."


def linear_fit(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Slope, intercept, and the share of the variance that the line explains (R squared)."""
    slope, intercept = np.polyfit(x, y, 1)
    residue = np.asarray(y) - (slope * np.asarray(x) + intercept)
    spread = np.asarray(y) - np.mean(y)
    return float(slope), float(intercept), float(1 - (residue @ residue) / (spread @ spread))


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def main() -> int:
    """Write or check the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where something would change")
    arguments = parser.parse_args()
    before = DOCUMENT.read_text(encoding="utf-8")
    after = filled(before, RESULTS)
    if arguments.check:
        if before != after:
            print(
                "docs/performance.md differs from benchmarks/results: python -m benchmarks.performance_tables",
                file=sys.stderr,
            )
        return int(before != after)
    DOCUMENT.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
