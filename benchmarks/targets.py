"""A target beside what was measured: the one part of a results file that has the same form in every file.

    {"machine": {...}, "targets": [TARGET, ...], ...}
    TARGET: {"name": str, "measured": number, "unit": str, "target": str, "met": bool | null}

`benchmarks/performance_tables.py` makes the tables of docs/performance.md from it. `met` is null where there is no
target, or where this machine cannot decide about it.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import PACKAGES, machine
from condinst_deploy.runtime.coco_results import write_json


@dataclass(frozen=True)
class Target:
    """One measured metric and what was asked of it."""

    name: str
    measured: float
    unit: str
    target: str = ""  # in words, "at least 20"
    met: bool | None = None

    @classmethod
    def at_least(cls, name: str, measured: float, limit: float, unit: str) -> "Target":
        """A metric that must not be smaller than `limit`."""
        return cls(name, rounded(measured), unit, f"at least {limit:g}", measured >= limit)

    @classmethod
    def at_most(cls, name: str, measured: float, limit: float, unit: str) -> "Target":
        """A metric that must not be larger than `limit`."""
        return cls(name, rounded(measured), unit, f"at most {limit:g}", measured <= limit)

    @classmethod
    def without(cls, name: str, measured: float, unit: str) -> "Target":
        """A metric of which nothing was asked, shown beside the others."""
        return cls(name, rounded(measured), unit)


def rounded(value: float) -> float:
    """Four significant digits: more are noise in a time, and make every run's file differ everywhere."""
    return float(f"{value:.4g}")


def results_of(
    targets: Sequence[Target], metrics: dict[str, Any], packages: Sequence[str] = PACKAGES
) -> dict[str, Any]:
    """Content of a results file: machine with the versions of `packages`, targets, and a benchmark's metrics."""
    return {"machine": machine(packages), "targets": [asdict(target) for target in targets]} | metrics


def write_results(
    path: Path | None, targets: Sequence[Target], metrics: dict[str, Any], packages: Sequence[str] = PACKAGES
) -> None:
    """Print the targets, and write a results file if a path is given."""
    for target in targets:
        print(f"{target.name}: {target.measured:g} {target.unit}; {target.target or 'no target'}")
    if path is not None:
        write_json(path, results_of(targets, metrics, packages))


def parser_of(doc: str | None, *, out: bool = True) -> argparse.ArgumentParser:
    """A parser whose help is a module's docstring; `out` adds `--out`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    if out:
        parser.add_argument("--out", type=Path, help="file for the results")
    return parser


def read_targets(path: Path) -> list[Target]:
    """The targets of a results file; none where the file has none, or in another form."""
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = content.get("targets") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        return []
    return [_target(entry) for entry in entries if isinstance(entry, dict) and {"name", "measured"} <= entry.keys()]


def _target(entry: dict[str, Any]) -> Target:
    met = entry.get("met")
    return Target(
        name=str(entry["name"]),
        measured=float(entry["measured"]),
        unit=str(entry.get("unit", "")),
        target=str(entry.get("target", "")),
        met=None if met is None else bool(met),
    )
