"""Parts of a GPU's benchmark in a process that is replaced when it dies or hangs.

An illegal address ends the GPU for its process, and a crash of a library ends the process: neither may cost the parts
that follow. The process writes the results file after each part, with the name of the part that runs (`running`); what
is in that file when the process ends says where the next one goes on.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_LOOKS = 0.5

START = 90.0
"""Seconds for the imports of a process and the compilation of its kernels."""

PATIENCE = 2.0
"""Times its estimate, and START seconds more, that a part may take before its process is ended."""


def measured_in_processes(
    command: Sequence[str], out: Path, parts: Mapping[str, float], seconds: float, start: float = START
) -> None:
    """Measure parts, their results in one file.

    Args:
        command: measures the parts that are named behind it, in turn.
        out: the results file, which the command extends.
        parts: name -> seconds that it takes, about.
        seconds: time for all of them; the command gets what is left as `--minutes`.
        start: seconds for the start of a process.
    """
    deadline = time.monotonic() + seconds
    left = list(parts)
    while left and time.monotonic() < deadline:
        minutes = max(0.0, deadline - time.monotonic()) / 60
        process = subprocess.Popen([*command, "--minutes", f"{minutes:.3f}", "--only", *left])
        reason = _end_of(process, out, parts, deadline, start)
        state = read(out)
        running = state["running"]
        if running is not None:
            state["not_measured"].setdefault(running, reason)
        elif unsaid(left, state) == left:  # it stopped before its first part, and would do so again
            state["not_measured"] |= dict.fromkeys(left, reason)
        state["running"] = None
        write(out, state)
        left = unsaid(left, state)
    state = read(out)
    state["not_measured"] |= dict.fromkeys(left, "no time was left")
    write(out, state)


def unsaid(names: Sequence[str], state: Mapping[str, Any]) -> list[str]:
    """Names that a results file says nothing of."""
    return [name for name in names if name not in state["parts"] and name not in state["not_measured"]]


def read(out: Path) -> dict[str, Any]:
    """The results so far."""
    state: dict[str, Any] = {"parts": {}, "not_measured": {}, "targets": [], "running": None}
    with suppress(OSError, ValueError):
        state |= json.loads(out.read_text(encoding="utf-8"))
    return state


def write(out: Path, state: Mapping[str, Any]) -> None:
    """Write the file whole or not at all."""
    temporary = out.with_name(f"{out.name}.new")
    temporary.write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    temporary.replace(out)


def _end_of(
    process: "subprocess.Popen[bytes]", out: Path, parts: Mapping[str, float], deadline: float, start: float
) -> str:
    """Wait for a process, or end it; why a part that runs then is not measured."""
    running, since = None, time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            status = process.wait(SECONDS_BETWEEN_LOOKS)
            return f"its process ended with status {status}"
        now, name = time.monotonic(), read(out)["running"]
        if name != running:
            running, since = name, now
        limit = start + PATIENCE * parts.get(running or "", 0.0)
        if now - since > limit or now > deadline + start:
            process.kill()
            process.wait()
            print(f"{running}: ended after {now - since:.0f} s", file=sys.stderr, flush=True)
            return f"it was ended after {now - since:.0f} s"
