"""Markdown: tables, and documents whose marked blocks are made from committed results."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from condinst_deploy.shown_text import counted

RESULTS = Path(__file__).parent / "results"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = (head, ["---"] * len(head), *rows)
    return "\n".join(f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in line)}|" for line in lines)


def measured_on(content: dict[str, Any], file: str) -> str:
    """The line below a table: machine, load, libraries, commit."""
    machine = content.get("machine")
    if not isinstance(machine, dict):
        return f"*`benchmarks/results/{file}`; the machine was not recorded.*"
    where = machine.get("gpu") or machine.get("processor") or "unknown processor"
    said = [f"`benchmarks/results/{file}`", str(where)]
    said += [counted(machine[f"{noun}s"], noun) for noun in ("core", "thread") if f"{noun}s" in machine]
    said += [f"load {machine['load_average']} at the end"] if "load_average" in machine else []
    said += [f"{name} {version}" for name, version in sorted(machine.get("versions", {}).items())]
    said += [f"commit {machine['commit']}"] if machine.get("commit") else []
    return f"*{', '.join(said)}.*"


def content_of(path: Path) -> Any:
    """A results file."""
    return json.loads(path.read_text(encoding="utf-8"))
