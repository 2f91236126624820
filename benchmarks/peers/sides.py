"""The sides of the comparison as running processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from benchmarks.peers.inputs import Inputs
from condinst_deploy.errors import CondInstError, ConfigError

ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / ".peers"
"""Environment that `make peers-env` makes."""

OURS = {"onnx": "this toolkit, .onnx", "int8": "this toolkit, .int8.onnx", "pth": "this toolkit, .pth"}
EAGER = {"eager": "eager reference, dense masks"}
PEERS = {"mmdetection": "mmdetection", "mmdeploy": "mmdeploy, ONNX Runtime"}
SIDES = OURS | EAGER | PEERS
"""Name on the command line -> name in the tables."""


class Child:
    """A side that has loaded its model and waits for images."""

    def __init__(self, name: str, process: "subprocess.Popen[str]", log: IO[str]) -> None:
        self.name = name
        self._process = process
        self._log = log
        self.loaded_mib: int | None = self._answer()["loaded_mib"]

    def ask(self, image: Path) -> dict[str, Any]:
        """Its detections in an image, and what they took (see `benchmarks.peers.child.serve`).

        Raises:
            CondInstError: the process came to an end.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it is gone; then there is no answer either
            self._process.stdin.write(f"{image}\n")
            self._process.stdin.flush()
        return self._answer()

    def wait(self) -> None:
        """Return when the process has ended."""
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._log.seek(0)
            raise CondInstError(f"{self.name} stopped: {_last_line(self._log.read())}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def started(side: str, command: Sequence[str]) -> Iterator[Child]:
    """The process of a side, as long as the block lasts."""
    pipe = subprocess.PIPE
    with TemporaryFile("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=log, text=True, cwd=ROOT, env=_surroundings()
        )
        try:
            yield Child(SIDES[side], process, log)
        finally:
            process.kill()
            process.communicate()


def command_of(side: str, inputs: Inputs, environment: Path) -> list[str]:
    """Return the command that starts a side's process."""
    ours, peers = [sys.executable, "-m", "benchmarks.peers.ours"], _peers_command(environment)
    return {
        "onnx": [*ours, "toolkit", str(inputs.exported)],
        "int8": [*ours, "toolkit", str(inputs.int8)],
        "pth": [*ours, "toolkit", str(inputs.checkpoint)],
        "eager": [*ours, "eager", str(inputs.checkpoint)],
        "mmdetection": [*peers, "mmdetection", str(inputs.checkpoint)],
        "mmdeploy": [*peers, "mmdeploy", str(inputs.graph)],
    }[side]


def export_with_mmdeploy(inputs: Inputs, environment: Path) -> None:
    """Let mmdeploy write its own file."""
    image = next(iter(inputs.images.values()))
    _ask_peers(environment, "export", str(inputs.checkpoint), "--image", str(image), "--out", str(inputs.graph))


def peers_versions(environment: Path) -> dict[str, str]:
    """Versions of the peers and of what they share with this toolkit."""
    versions: dict[str, str] = json.loads(_ask_peers(environment, "versions").splitlines()[-1])
    return versions


def check_environment(environment: Path) -> None:
    """Refuse at once what would fail after minutes."""
    if not _python(environment).exists():
        raise ConfigError(
            f"no environment of the peers at {environment}: make one with make peers-env"
            f" (benchmarks/peers/README.md), or leave them out with --sides {' '.join(OURS | EAGER)}"
        )


def _ask_peers(environment: Path, *arguments: str) -> str:
    """Output of one command in the peers' environment."""
    command = [*_peers_command(environment), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=_surroundings())
    if done.returncode != 0:
        raise CondInstError(f"the peers' environment fails at {arguments[0]}: {_last_line(done.stderr)}")
    return done.stdout


def _peers_command(environment: Path) -> list[str]:
    return [str(_python(environment)), "-m", "benchmarks.peers.measure"]


def _python(environment: Path) -> Path:
    return environment.absolute() / "bin" / "python"


def _surroundings() -> dict[str, str]:
    """The same number of threads for every side, and no GPU.

    OpenMP's threads do not spin while they wait; ONNX Runtime's own know nothing of that setting.
    """
    threads = str(len(os.sched_getaffinity(0)))
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "export", ROOT / "engines"))
    fixed = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | fixed | {"PYTHONPATH": paths}


def _last_line(log: str) -> str:
    return next((line for line in reversed(log.splitlines()) if line.strip()), "it said nothing")
