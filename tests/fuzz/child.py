"""The process that uses the inputs: one request a line, one answer a line. Argument: the folder of the valid files."""

import json
import os
import resource
import sys
from pathlib import Path

from condinst_deploy.benchmarking.memory import peak_mb, resident_mb
from condinst_deploy.support.launch import show_remarks_of_libraries
from tests.fuzz.inputs import Base
from tests.fuzz.targets import run_input

MOST_MB = 3000.0
"""Memory that an input may take beyond what the process has before it."""


def main() -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # libraries write there
        os.dup2(nowhere, stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    show_remarks_of_libraries()  # as every command does
    base = Base(Path(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
        before = resident_mb() or 0.0
        hard = int((before + 2 * MOST_MB) * 1e6)
        resource.setrlimit(resource.RLIMIT_DATA, (hard, resource.RLIM_INFINITY))
        outcome = run_input(request["kind"], Path(request["folder"]), base)
        grown = (peak_mb() or 0.0) - before
        faults = [*outcome.faults, *([f"{grown:.0f} MB"] if grown > MOST_MB else [])]
        answers.write(json.dumps({"accepted": outcome.accepted, "faults": faults, "mb": round(grown)}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
