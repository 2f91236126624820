"""The scripts of tests/cases: each makes its input, tries one fault, and prints PASS or FAIL."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for path in (ROOT / "tests" / "cases").glob("*/[0-9]*") if path.suffix in (".py", ".sh"))

NEEDS_ROOT = {"18_disk_full_tracebacks"}
"""They mount a small file system."""

NO_MOUNT = "needs the right to mount a file system, which this container does not have"


@dataclass(frozen=True)
class Outcome:
    """Outcome of a script.

    Attributes:
        passed: every verdict in its output is PASS, and there is one.
        seconds: of its run.
        text: its output, with standard error.
        skipped: why it could not run here; empty: it ran.
    """

    passed: bool
    seconds: float
    text: str
    skipped: str = ""


def environment(cache: Path) -> dict[str, str]:
    """Variables of the scripts: the commands beside this Python, and the code of this checkout."""
    code = os.pathsep.join(str(ROOT / folder) for folder in (".", "export", "engines"))
    return os.environ | {
        "CONDINST_REPO": str(ROOT),
        "CONDINST_BIN": str(Path(sys.executable).parent),
        "CONDINST_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": code,
    }


def run_case(script: Path, variables: dict[str, str]) -> Outcome:
    """Run one script to its end."""
    if script.stem in NEEDS_ROOT and os.geteuid() != 0:
        return Outcome(False, 0.0, "", "needs root: it mounts a small file system")
    command = ["bash" if script.suffix == ".sh" else sys.executable, str(script)]
    started = time.monotonic()
    done = subprocess.run(
        command, cwd=script.parent, env=variables, capture_output=True, text=True, check=False, timeout=500
    )
    seconds = time.monotonic() - started
    if "permission denied" in done.stderr.lower() and "mount" in done.stderr:
        return Outcome(False, seconds, "", NO_MOUNT)
    verdicts = [line[:4] for line in done.stdout.splitlines() if line.startswith(("PASS", "FAIL"))]
    return Outcome(bool(verdicts) and "FAIL" not in verdicts, seconds, done.stdout + done.stderr)
