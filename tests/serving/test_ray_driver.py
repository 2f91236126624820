"""The command with its own processes of Ray: where they listen, what signals and kills leave, and S3."""

import fcntl
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from condinst_deploy.serving.batch.batch_driver import planned
from tests.support.batch_runs import (
    COMMAND,
    assert_each_image_once,
    batch_command,
    command_environment,
    events_of,
    options_of,
    run_in_process,
    write_images,
)
from tests.support.own_network import isolation
from tests.support.process_tree import alive, descendants, is_ray_worker

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_thread")]

WORKERS, SHARD = 2, 5
LISTENING = "0A"  # in /proc/net/tcp
LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
SECONDS = 120.0


def arguments_of(images: Path, model: Path, out: Path) -> list[str]:
    options = ["--shard-size", str(SHARD), "--workers", str(WORKERS), "--device", "cpu", "--max-detections", "5"]
    return [str(images), "--model", str(model), "--out", str(out), *options]


@pytest.fixture
def home() -> Iterator[Path]:
    """An empty home folder, and temporary directory, with a name so short that Ray's sockets fit in."""
    with TemporaryDirectory(prefix="r", dir="/tmp") as folder:
        yield Path(folder)


@contextmanager
def started(arguments: list[str], home: Path) -> Iterator[subprocess.Popen[str]]:
    """The command in a process group of its own, without a network; it and Ray's processes are gone at the end."""
    process = subprocess.Popen(
        [*isolation(), *COMMAND, *arguments],
        env=command_environment(HOME=str(home), TMPDIR=str(home)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end_all([*descendants(process.pid), process.pid])
        process.communicate()


def end_all(processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def listening_addresses(processes: list[int]) -> list[str]:
    """Local addresses, as in /proc/net/tcp, on which processes accept connections."""
    inodes = set()
    for process in processes:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                inodes.add(str(link.readlink()))
            except OSError:
                continue
    addresses = []
    for table in ("tcp", "tcp6"):  # of the processes' network, which may not be ours
        for line in Path(f"/proc/{processes[0]}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and f"socket:[{fields[9]}]" in inodes:
                addresses.append(fields[1].split(":")[0])
    return addresses


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait; a process that ends before is an error, and so is too long a time."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process is None or process.poll() is None, "the command ended early"
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)


def done_shards(out: Path) -> int:
    return sum(event["kind"] == "done" for event in events_of(out))


def holders_of(token: bytes, folder: Path) -> list[Path]:
    """Files that contain a token."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in files if token in path.read_bytes()]


@contextmanager
def left_by_others(place: Path) -> Iterator[list[Path]]:
    """Folders of a killed driver, of a living one and of another program; yields those that have to stay."""
    left, in_use, other = (place / f"condinst-ray-{name}" for name in ("left", "in-use", "no-lock"))
    for folder in (left, in_use, other):
        (folder / "session").mkdir(parents=True)
    for folder in (left, in_use):
        (folder / ".lock").touch()
    with (in_use / ".lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield sorted([in_use, other, in_use / ".lock", in_use / "session", other / "session"])


def test_ray_listens_on_loopback_alone_and_ctrl_c_leaves_nothing_behind(
    small_onnx: Path, tmp_path: Path, home: Path
) -> None:
    paths, out = write_images(tmp_path / "images", 1000), tmp_path / "out"
    with left_by_others(home) as kept, started(arguments_of(tmp_path / "images", small_onnx, out), home) as process:
        wait_until(lambda: done_shards(out) >= 3, process)
        family = descendants(process.pid)
        addresses = listening_addresses([process.pid, *family])
        assert len(addresses) >= 4  # at least the two servers and the two workers
        assert set(addresses) <= LOOPBACK
        environments = [Path(f"/proc/{child}/environ").read_bytes() for child in family if alive([child])]
        tokens = {v for env in environments for v in env.split(b"\0") if v.startswith(b"RAY_AUTH_TOKEN=")}
        (token,) = (entry.partition(b"=")[2] for entry in tokens)
        assert len(token) == 64
        assert not any(token in Path(f"/proc/{child}/cmdline").read_bytes() for child in alive(family))
        assert len(list(home.glob("condinst-ray-*/session_*/logs/*"))) > 5
        assert holders_of(token, home) == []
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: Ray's processes get it, too
        output, reported = process.communicate(timeout=SECONDS)
        assert process.returncode == 130
        assert "the same command continues the run" in reported
        assert "Traceback" not in reported
        wait_until(lambda: not alive(family))
    assert output.startswith(f"{SHARD * done_shards(out)} images, 0 of them with an error")
    assert sorted(home.rglob("*")) == kept  # no token, no usage report, no settings, no logs
    assert holders_of(token, out) == []
    with planned(options_of(tmp_path / "images", small_onnx, out, shard_size=SHARD)) as plan:
        assert 0 < plan.finished_images < len(paths)
        assert len(plan.finished) >= done_shards(out)


def kill(process: subprocess.Popen[str]) -> int:
    """End a process as no handler can notice."""
    process.send_signal(signal.SIGKILL)
    return -signal.SIGKILL


def interrupt_twice(process: subprocess.Popen[str]) -> int:
    """Ctrl-C, and once more from somebody who does not want to wait."""
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    return 130


def assert_survives_the_end_of_its_driver(
    seed: int, end: Callable[[subprocess.Popen[str]], int], model: Path, folder: Path, home: Path, whole: bool = False
) -> None:
    chance = random.Random(seed)
    paths, out = write_images(folder / "images", 150), folder / "out"
    with started(arguments_of(folder / "images", model, out), home) as process:
        before = chance.randrange(1, 25)
        wait_until(lambda: done_shards(out) >= before or process.poll() is not None)
        time.sleep(chance.uniform(0, 0.3))
        family = descendants(process.pid)
        expected = end(process)
        assert process.wait(timeout=SECONDS) in (expected, 0)
        # by themselves; two helpers of Ray's, which write nothing, try for a minute to tell others of their end
        wait_until(lambda: not [pid for pid in alive(family) if whole or is_ray_worker(pid)])
        end_all(alive(family))
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    begun = sum(event["kind"] == "start" for event in events_of(out))
    plan, events = run_in_process(options_of(folder / "images", model, out, shard_size=SHARD))
    assert {f"part-{index:08d}.parquet" for index in plan.finished} == set(finished)
    assert_each_image_once(out, paths)
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished  # nothing was written twice
    again = [event for event in events if event.kind == "start"]
    assert begun + len(again) - len(paths) // SHARD <= WORKERS  # at most one shard of each worker was done twice


@pytest.mark.parametrize("end", [kill, interrupt_twice])
def test_the_end_of_a_driver_costs_at_most_a_shard_of_each_worker(
    end: Callable[[subprocess.Popen[str]], int], small_onnx: Path, tmp_path: Path, home: Path
) -> None:
    assert_survives_the_end_of_its_driver(0, end, small_onnx, tmp_path, home)


@pytest.mark.slow
def test_all_processes_of_a_killed_driver_end_by_themselves(small_onnx: Path, tmp_path: Path, home: Path) -> None:
    assert_survives_the_end_of_its_driver(1, kill, small_onnx, tmp_path, home, whole=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_killed_driver_costs_at_most_a_shard_of_each_worker_twenty_times(
    seed: int, small_onnx: Path, tmp_path: Path, home: Path
) -> None:
    assert_survives_the_end_of_its_driver(seed, kill, small_onnx, tmp_path, home)


def test_from_a_bucket_to_a_bucket_with_ray_and_without(s3: Any, ray: Any, small_onnx: Path, tmp_path: Path) -> None:
    from condinst_deploy.serving.batch.output_rows import read_part

    paths = write_images(tmp_path / "images", 20, damaged=[3])
    s3.mkdir("runs")
    s3.put([str(path) for path in paths], [f"runs/images/{path.name}" for path in paths])
    s3.pipe_file("runs/images/00019.jpg", b"")  # an upload that was stopped
    found = {}
    cluster = ["--address", ray.get_runtime_context().gcs_address]
    placements: dict[str, list[str]] = {"one": [], "two": [*cluster, "--workers", "2"]}
    for name, more in placements.items():
        out = f"s3://runs/{name}"
        options = ["--model", str(small_onnx), "--device", "cpu", "--max-detections", "5", "--shard-size", "5", *more]
        done = batch_command("s3://runs/images/", *options, "--out", out, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert (summary["images"], summary["failed"], summary["parts"]) == (20, 2, 4)
        s3.invalidate_cache()
        s3.get(f"runs/{name}", str(tmp_path / name), recursive=True)
        found[name] = [(tmp_path / name / f"part-0000000{i}.parquet").read_bytes() for i in range(4)]
    assert found["one"] == found["two"]
    rows = [row for i in range(4) for row in read_part(str(tmp_path / "one" / f"part-0000000{i}.parquet"))]
    assert [row.path for row in rows] == [f"s3://runs/images/{path.name}" for path in paths]
    assert [(row.position, row.error) for row in rows if row.error is not None] == [(3, "damaged"), (19, "damaged")]
    run_in_process(options_of(tmp_path / "images", small_onnx, tmp_path / "local", shard_size=20))
    local = list(read_part(str(tmp_path / "local" / "part-00000000.parquet")))
    for row, same in zip(rows, local, strict=True):
        if row.detections is not None and same.detections is not None:
            assert row.detections.to_coco(1) == same.detections.to_coco(1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_cluster_outlives_a_driver_and_serves_the_next_one(
    number: signal.Signals, ray: Any, small_onnx: Path, tmp_path: Path
) -> None:
    paths, out = write_images(tmp_path / "images", 200), tmp_path / "out"
    address, cpus = ray.get_runtime_context().gcs_address, ray.available_resources()["CPU"]
    arguments = [*arguments_of(tmp_path / "images", small_onnx, out), "--address", address]
    with subprocess.Popen(
        [*COMMAND, *arguments], env=command_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: done_shards(out) >= 3, process)
        process.send_signal(number)
        _, reported = process.communicate(timeout=SECONDS)
    assert process.returncode in (128 + number, -number)
    assert number == signal.SIGKILL or "the same command continues the run" in reported
    assert "Traceback" not in reported
    wait_until(lambda: bool(ray.available_resources().get("CPU") == cpus))  # its workers are gone
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    assert 3 <= len(finished) < len(paths) // SHARD
    done = batch_command(*arguments, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["parts_before"] == len(finished)
    assert_each_image_once(out, paths)
    assert {name: (out / name).stat().st_mtime_ns for name in finished} == finished


@pytest.mark.parametrize("address", ["127.0.0.1:9", "[::1]:9"])
def test_an_address_without_a_cluster_is_one_line(
    address: str, small_onnx: Path, ten_images: list[Path], tmp_path: Path
) -> None:
    arguments = (ten_images[0].parent, "--model", small_onnx, "--out", "out", "--address", address)
    done = batch_command(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert f"error: no Ray cluster at {address} (" in done.stderr
