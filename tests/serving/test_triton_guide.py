"""Every command and the script of docs/serving.md, on a real tritonserver."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.batch_runs import write_images
from tests.support.triton_server import ENVIRONMENT, ROOT, free_ports, missing, server_command, server_environment

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed on this machine"),
]

GUIDE = ROOT / "docs" / "serving.md"
PORTS = ("8000", "8001", "8002")
"""Of HTTP, gRPC and metrics in the guide."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", GUIDE.read_text(), re.M | re.S)


def replaced(text: str, ports: list[int]) -> str:
    """A command with the ports of this test's server."""
    for theirs, ours in zip(PORTS, ports, strict=True):
        text = text.replace(f"localhost:{theirs}", f"127.0.0.1:{ours}")
    return text


def programs(folder: Path) -> None:
    """The commands of this working tree; a client of gRPC runs in the environment that has its library."""
    folder.mkdir()
    modules = {
        "condinst-doctor": "condinst_deploy.cli.doctor",
        "condinst-export": "condinst_export.cli",
        "condinst-triton-repo": "condinst_deploy.cli.triton_repo",
        "condinst-client": "condinst_deploy.cli.client",
    }
    for name, module in modules.items():
        code = shlex.quote(f"from {module} import main; main()")
        script = folder / name
        script.write_text(
            f'#!/bin/sh\ncase "$1" in grpc://*) python={ENVIRONMENT}/bin/python;; *) python={sys.executable};; esac\n'
            f'exec "$python" -c {code} "$@"\n'
        )
        script.chmod(0o755)


@contextmanager
def started(line: str, folder: Path, ports: list[int]) -> Iterator[subprocess.Popen[bytes]]:
    """Run the guide's `tritonserver`, on loopback and with its own ports."""
    name, *arguments = shlex.split(line)
    assert name == "tritonserver"
    command = [*server_command(folder, ports), *arguments]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=server_environment())
    try:
        yield process
    finally:
        process.terminate()
        process.wait(120)


def test_every_command_of_the_guide_runs(slim_checkpoint: Path, tmp_path: Path) -> None:
    shutil.copy(slim_checkpoint, tmp_path / "weights.pth")
    for number, path in enumerate(write_images(tmp_path / "images", 2, damaged=[], side=64)):
        path.rename(path.with_name(f"{number}.jpg"))
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    programs(tmp_path / "bin")
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": ":".join(str(ROOT / name) for name in ("", "export", "engines")),
        "OMP_NUM_THREADS": "1",
    }
    ports = free_ports(3)

    def run(line: str) -> str:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", replaced(line, ports)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=1200,  # a machine may be busy
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    lines = [line for block in blocks("sh") for line in block.splitlines()]
    place = next(i for i, line in enumerate(lines) if line.startswith("tritonserver"))
    for line in lines[:place]:
        run(line)
    with started(lines[place], tmp_path, ports) as server:
        wait_until_ready(ports[0], server)
        shown = [run(line) for line in lines[place + 1 :]]
        (script,) = blocks("python")
        done = subprocess.run(
            [sys.executable, "-c", replaced(script, ports)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert [line.split()[0] for line in done.stdout.splitlines()] == ["images/0.jpg", "images/1.jpg"]
    assert server.returncode == 0
    assert len(shown) == 7
    assert len(list((tmp_path / "found").glob("*.jpg"))) == 2
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == 2
    assert shown[2].count(" instances") == 2  # over gRPC
    assert (tmp_path / "answer.json").read_text().startswith('[{"name":')
    assert shown[4] == "condinst answers\n"
    assert "condinst_stage_seconds_total" in shown[-1]


def wait_until_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait for a server that is starting."""
    command = ["curl", "--silent", "--fail", f"http://127.0.0.1:{port}/v2/health/ready"]
    end = time.monotonic() + 300
    while subprocess.run(command, check=False).returncode != 0:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.2)
