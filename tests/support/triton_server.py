"""A real tritonserver on loopback, from the environment `.triton` (`make triton-env`)."""

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

ROOT = Path(__file__).parents[2]
ENVIRONMENT = Path(os.environ.get("CONDINST_TRITON_ENV", ROOT / ".triton"))
SECONDS_TO_START = 120.0


def packages() -> Path | None:
    """The environment's site-packages; None if it was not made."""
    found = sorted((ENVIRONMENT / "lib").glob("python3.*/site-packages/pytriton/tritonserver/bin/tritonserver"))
    return found[0].parents[3] if found else None


def missing() -> str:
    """Return why no server can be started here; empty if one can."""
    home = packages()
    if home is None:
        return "no tritonserver: make triton-env"
    stub = home / "pytriton/tritonserver/python_backend_stubs" / home.parent.name.removeprefix("python")
    return "" if stub.is_dir() else f"nvidia-pytriton has no stub for {home.parent.name}"


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    metrics_port: int
    log: Path

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"grpc://127.0.0.1:{self.grpc_port}"

    def metrics(self) -> str:
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def stubs(self) -> list[int]:
        """Process ids of the server's Python models."""
        text = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in text.split() if b"triton_python_backend_stub" in _command_line(int(pid))]


def _command_line(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on at this moment."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _backends(home: Path, folder: Path) -> Path:
    """The Python backend with the stub of the environment's Python beside it, as the server wants it."""
    bundled = home / "pytriton/tritonserver"
    backends = folder / "backends"
    if not backends.exists():
        shutil.copytree(bundled / "backends", backends)
        version = home.parent.name.removeprefix("python")
        shutil.copy(bundled / "python_backend_stubs" / version / "triton_python_backend_stub", backends / "python")
    return backends


def server_command(folder: Path, ports: Sequence[int]) -> list[str]:
    """The server's program, with everything that keeps it on loopback and apart from other servers.

    Args:
        folder: where its backends are put.
        ports: of HTTP, gRPC and metrics.
    """
    home = packages()
    assert home is not None
    names = ("http", "grpc", "metrics")
    return [
        str(home / "pytriton/tritonserver/bin/tritonserver"),
        f"--backend-directory={_backends(home, folder)}",
        *(f"--{name}-address=127.0.0.1" for name in names),
        *(f"--{name}-port={port}" for name, port in zip(names, ports, strict=True)),
        # a name of its own: two servers must not share segments of memory
        f"--backend-config=python,shm-region-prefix-name=condinst_{ports[0]}_",
    ]


def server_environment() -> dict[str, str]:
    """Variables with which the server finds the environment's Python and its libraries."""
    home = packages()
    libraries = [str(sysconfig.get_config_var("LIBDIR")), f"{home}/nvidia_pytriton.libs"]
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {
        "PATH": f"{ENVIRONMENT / 'bin'}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": ":".join(libraries),
        "OMP_NUM_THREADS": "1",
    }


@contextmanager
def running(repository: Path, folder: Path) -> Iterator[Server]:
    """Start a server on a repository, and end it."""
    ports = free_ports(3)
    command = [
        *server_command(folder, ports),
        f"--model-repository={repository}",
        "--model-control-mode=explicit",
        "--load-model=*",
        "--exit-timeout-secs=60",
    ]
    http, grpc, metrics = ports
    log = folder / f"server_{http}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=server_environment())
    try:
        _wait_until_ready(process, http, log)
        yield Server(process, http, grpc, metrics, log)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)  # after a killed model process it may wait out its whole timeout
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and process.poll() is None:
        with suppress(URLError, OSError), urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the server did not become ready:\n{log.read_text(errors='replace')[-3000:]}")
