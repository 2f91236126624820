"""A bar beside what was measured: the one part of a results file that has the same form in every file.

    {"machine": {...}, "bars": [{"name": str, "measured": number, "unit": str, "bar": str, "met": bool | null}], ...}

`benchmarks/report.py` makes the tables of docs/performance.md from it. `met` is null where there is no bar, or where
this machine cannot decide about it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import PACKAGES, machine
from condinst_deploy.runtime.results import write_json


@dataclass(frozen=True)
class Bar:
    """One measured figure and what was asked of it."""

    name: str
    measured: float
    unit: str
    bar: str = ""  # in words, "at least 20"
    met: bool | None = None

    @classmethod
    def at_least(cls, name: str, measured: float, limit: float, unit: str) -> "Bar":
        """A figure that must not be smaller than `limit`."""
        return cls(name, rounded(measured), unit, f"at least {limit:g}", measured >= limit)

    @classmethod
    def at_most(cls, name: str, measured: float, limit: float, unit: str) -> "Bar":
        """A figure that must not be larger than `limit`."""
        return cls(name, rounded(measured), unit, f"at most {limit:g}", measured <= limit)

    @classmethod
    def without(cls, name: str, measured: float, unit: str) -> "Bar":
        """A figure of which nothing was asked, shown beside the others."""
        return cls(name, rounded(measured), unit)


def rounded(value: float) -> float:
    """Four significant digits: more are noise in a time, and make every run's file differ everywhere."""
    return float(f"{value:.4g}")


def results_of(bars: Sequence[Bar], figures: dict[str, Any], packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """What a results file holds: machine with the versions of `packages`, bars, and what else a benchmark says."""
    return {"machine": machine(packages), "bars": [asdict(bar) for bar in bars]} | figures


def write_results(path: Path, bars: Sequence[Bar], figures: dict[str, Any]) -> None:
    """A results file."""
    write_json(path, results_of(bars, figures))


def read_bars(path: Path) -> list[Bar]:
    """The bars of a results file; none where the file has none, or in another form."""
    content = json.loads(path.read_text(encoding="utf-8"))
    entries = content.get("bars") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        return []
    return [_bar(entry) for entry in entries if isinstance(entry, dict) and {"name", "measured"} <= entry.keys()]


def _bar(entry: dict[str, Any]) -> Bar:
    met = entry.get("met")
    return Bar(
        name=str(entry["name"]),
        measured=float(entry["measured"]),
        unit=str(entry.get("unit", "")),
        bar=str(entry.get("bar", "")),
        met=None if met is None else bool(met),
    )
