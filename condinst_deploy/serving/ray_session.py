"""A connection to Ray: to a cluster, or to its own processes on this machine, which listen on loopback alone."""

import fcntl
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from typing import Any

from condinst_deploy.errors import BackendError, ConfigError
from condinst_deploy.shown_text import first_line, shown_value
from condinst_deploy.support.extras import install_command
from condinst_deploy.support.option_types import check_types
from condinst_deploy.support.signals import kept_sigterm

OBJECT_STORE = 128 * 1024 * 1024
"""Bytes of the local object store. Only names of images and reports go through it."""

CONNECT_SECONDS = 10.0

_ADDRESS = re.compile(r"[^/\s]+:\d{1,5}")

FOLDER, LOCK = "condinst-ray-", ".lock"
LONGEST_PLACE = 20
"""Bytes of the temporary directory's name that leave room for those of Ray's sockets."""

SHORT_PLACE = Path("/tmp")

LOCAL_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux Ray otherwise binds to every network interface
    "RAY_AUTH_MODE": "token",  # other users of this machine reach loopback, too
}


@dataclass(frozen=True)
class RayOptions:
    """Options of a Ray session: cluster and number of workers."""

    address: str | None = None  # of a cluster; None: processes on this machine
    workers: int | None = None  # None: as many as the GPUs, or else the CPUs, have room for
    gpus_per_worker: float | None = None  # None: 1 where there are GPUs, else 0
    cpus_per_worker: float = 1.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value has another type, or is out of range.
        """
        check_types(self)
        if self.workers is not None and not 1 <= self.workers <= 100_000:
            raise ConfigError(f"workers is {shown_value(self.workers)}; expected 1 to 100000")
        # Ray takes "" and "local" for an order to start processes, which would listen on every network interface
        if self.address is not None and self.address != "auto" and not _ADDRESS.fullmatch(self.address):
            raise ConfigError(
                f"address is {self.address!r}; expected HOST:PORT of the cluster's head, or 'auto' on a machine of the"
                " cluster; leave it out to run on this machine alone"
            )
        gpus = self.gpus_per_worker
        if gpus is not None and not (gpus == 0 or 0.01 <= gpus < 1 or (1 <= gpus <= 10_000 and gpus == int(gpus))):
            raise ConfigError(
                f"gpus_per_worker is {shown_value(gpus)}; expected 0, a part of 1 (0.5), or a whole number to 10000"
            )
        if not 0.01 <= self.cpus_per_worker <= 10_000:
            raise ConfigError(f"cpus_per_worker is {shown_value(self.cpus_per_worker)}; expected 0.01 to 10000")


def check_ray() -> None:
    """Check that Ray is installed, without importing it: it reads its settings when it is imported.

    Raises:
        BackendError: it is not installed.
    """
    if find_spec("ray") is None:
        raise BackendError(
            f"Ray is not installed: {install_command('ray')}; without --ray, --workers and"
            " --address the same command runs in one process"
        )


@contextmanager
def ray_session(options: RayOptions) -> Iterator[Any]:
    """Connect to Ray, and let go of it at the end. Processes of this machine are ended, and their files removed.

    Raises:
        BackendError: Ray is not installed, or there is no cluster at the address.
    """
    check_ray()
    if is_connected():
        yield sys.modules["ray"]  # the caller's connection, which the caller closes
        return
    with ExitStack() as stack:
        stack.enter_context(_settings({"RAY_USAGE_STATS_ENABLED": "0"} if options.address else _local_settings()))
        import ray

        folder = None if options.address else stack.enter_context(_session_folder())
        stack.callback(ray.shutdown)
        with kept_sigterm():  # ray.init puts its own handler in its place
            _connect(ray, options, folder)
        yield ray


def is_connected() -> bool:
    """Return True if the caller has connected to Ray itself."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def resources_per_worker(ray: Any, options: RayOptions, device: str) -> dict[str, float]:
    """Return the resources that Ray reserves for each worker.

    Args:
        ray: the library, connected.
        options: what was asked for.
        device: of the model; "cpu" needs no GPU.
    """
    gpus = options.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if device != "cpu" and ray.cluster_resources().get("GPU", 0) else 0.0
    return {"num_cpus": options.cpus_per_worker, "num_gpus": gpus}


def worker_count(ray: Any, options: RayOptions, resources: dict[str, float]) -> int:
    """Return how many workers were asked for, or else how many the cluster has room for now."""
    if options.workers is not None:
        return options.workers
    there = ray.cluster_resources()
    rooms = [there.get("CPU", 0) / resources["num_cpus"]]
    if resources["num_gpus"]:
        rooms.append(there.get("GPU", 0) / resources["num_gpus"])
    return max(1, int(min(rooms)))


@contextmanager
def _session_folder() -> Iterator[str]:
    """A folder for the files of Ray's processes, locked while this process lives. Those of killed drivers are removed.

    Ray's sockets lie in it, and the names of sockets have at most 107 bytes.
    """
    place = Path(tempfile.gettempdir())
    if len(os.fsencode(place)) > LONGEST_PLACE and os.access(SHORT_PLACE, os.W_OK):
        place = SHORT_PLACE
    for leftover in place.glob(f"{FOLDER}*"):
        _remove_if_left(leftover)
    folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=place))
    try:
        with (folder / LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_left(folder: Path) -> None:
    with suppress(OSError):  # of another user, of a process that lives, or gone by now
        if folder.lstat().st_uid == os.geteuid():
            with (folder / LOCK).open("rb+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


def _connect(ray: Any, options: RayOptions, folder: str | None) -> None:
    # more workers than cores are the user's decision
    cpus = max(len(os.sched_getaffinity(0)), ceil((options.workers or 1) * options.cpus_per_worker))
    local = {
        "num_cpus": cpus,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE,
        "_node_ip_address": "127.0.0.1",
        "_temp_dir": folder,
    }
    arguments = {"address": "local", **local} if options.address is None else {"address": options.address}
    try:
        if options.address is not None and options.address != "auto":
            _check_in_reach(options.address)
        ray.init(**arguments, log_to_driver=False, configure_logging=False)
    except (OSError, ValueError, RuntimeError) as e:
        reason = first_line(e)
        if options.address is None:
            raise BackendError(f"Ray does not start on this machine ({reason}); leave out --ray to do without") from e
        raise BackendError(
            f"no Ray cluster at {options.address} ({reason}); expected HOST:PORT of its head, or 'auto' on a machine"
            " of the cluster. A cluster with tokens needs RAY_AUTH_MODE=token here, too"
        ) from e


def _check_in_reach(address: str) -> None:
    """Check that the cluster answers: Ray itself tries for half a minute, and its message has many lines."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
        pass


@cache
def _local_settings() -> dict[str, str]:
    """Settings of processes on this machine, with a token that is in no file and on no command line.

    Ray reads the settings once in a process, when it is imported, so that all sessions of a process share the token.

    Raises:
        BackendError: Ray was imported before, without these settings.
    """
    if "ray" in sys.modules:
        raise BackendError(
            "Ray was imported before its settings were made: it would listen on every network interface. Connect with"
            " ray.init() first, or do not import ray before this call"
        )
    return {**LOCAL_SETTINGS, "RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextmanager
def _settings(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
