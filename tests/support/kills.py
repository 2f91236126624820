"""Commands that are stopped at a moment of their run, and what has to be true afterwards."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from condinst_deploy.contract.engine_manifest import read_manifest
from condinst_deploy.model.checkpoints import load_model

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)

STARTING = "init_import_site: Failed to import the site module"
"""What Python says after a signal before the first line of a program runs."""

ENTRY = (
    # a shell that runs the tests in the background lets its children ignore Ctrl-C
    "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from {module} import {name}; sys.argv[0] = 'condinst'; {name}()"
)


@dataclass(frozen=True)
class Job:
    """A command line that writes below `out`.

    Attributes:
        module: of its entry point.
        name: of its entry point.
        arguments: as a user gives them.
        out: what it writes into.
        resume: the arguments of a run that goes on, where something was left; None: the same.
    """

    module: str
    name: str
    arguments: list[str]
    out: Path
    resume: Callable[[Path], list[str]] = field(default=lambda out: [])

    def start(self) -> subprocess.Popen[str]:
        code = ENTRY.format(module=self.module, name=self.name)
        return subprocess.Popen(
            [sys.executable, "-c", code, *self.arguments, *self.resume(self.out)],
            cwd=self.out.parent,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self) -> tuple[float, str]:
        """Run to the end: seconds, and what it said on standard error."""
        started = time.monotonic()
        process = self.start()
        _, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        return time.monotonic() - started, err


def moments(seed: int, count: int, seconds: float) -> list[float]:
    """Moments of a run of so many seconds; also the very first ones."""
    chosen = random.Random(seed)
    return [seconds * chosen.random() ** 1.5 for _ in range(count)]


def stopped_at(job: Job, number: signal.Signals, seconds: float) -> int:
    """Start a job, signal it after so many seconds, and look at what it left; its status."""
    process = job.start()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    _, err = process.communicate(timeout=300)
    if STARTING in err:
        return process.returncode
    assert process.returncode in (0, -number, 128 + number), (process.returncode, err)
    if process.returncode > 0:
        assert "Traceback" not in err
    if number != signal.SIGKILL and process.returncode > 0:
        assert leftovers(job) == []
    check_whole(job)
    return process.returncode


def leftovers(job: Job) -> list[Path]:
    return sorted(job.out.parent.rglob(".*.partial"))


def check_whole(job: Job) -> None:
    """Every file under a final name can be read."""
    for path in job.out.parent.rglob("*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".onnx":
            onnx.checker.check_model(onnx.load(str(path)))
        elif path.suffix == ".pth":
            load_model(path)
        elif path.suffix == ".engine":
            read_manifest(path)
