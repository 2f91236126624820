"""The first minutes on a GPU, where there is none: it says so, and the one file is there all the same."""

import json
import os
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from importlib import import_module
from importlib.metadata import requires
from pathlib import Path
from shutil import copy, which

import pytest
from packaging.requirements import Requirement

from condinst_deploy.runtime.devices import driver_present
from tests.support.interpreter import ROOT

first = import_module("benchmarks.gpu_first")


def quiet() -> None:
    """What a step may call while it runs."""


@pytest.mark.skipif(driver_present(), reason="this machine has a GPU")
@pytest.mark.skipif(which("make") is None, reason="make is not installed")
def test_make_runs_it_with_the_python_at_hand_without_an_environment(tmp_path: Path) -> None:
    """As on a lent machine: a copy of the sources, no .venv, and a variable OUT for what comes back."""
    for part in ("Makefile", "constraints.txt", "benchmarks/gpu_first.py"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        copy(ROOT / part, tmp_path / part)
    bare = tmp_path / "python"  # has the standard library alone
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I "$@"\n')
    bare.chmod(0o755)
    environment = os.environ | {"OUT": str(tmp_path / "back")}
    command = ["make", "--no-print-directory", "gpu-first", f"PYTHON={bare}", "STEPS=doctor tests"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2  # make's own, for a status of 1
    lines = done.stdout.splitlines()
    assert [line.split()[1] for line in lines[:2]] == ["failed", "passed"]
    assert "nvidia-smi is not there" in lines[0]
    assert lines[-1] == f"bring back {tmp_path / 'back' / 'gpu-first-doctor-tests.zip'}"
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["gpu-first-doctor-tests.zip"]
    assert not (tmp_path / ".venv").exists()
    missing = subprocess.run(
        ["make", "gpu-first", "PYTHON=a-python-that-is-not-there"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: a-python-that-is-not-there is not on the PATH; name a Python")


@pytest.mark.skipif(driver_present(), reason="this machine has a GPU")
def test_without_a_gpu_it_ends_with_a_table_and_one_file(tmp_path: Path) -> None:
    out = tmp_path / "first.zip"
    # with the standard library alone: nothing but the script is on the path
    command = [sys.executable, "-I", str(ROOT / "benchmarks" / "gpu_first.py"), "--out", str(out)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == [
        "GPU",
        "libraries",
        "condinst-doctor",
        "pytest",
        "benchmarks.gpu",
    ]
    assert lines[-1] == f"bring back {out}"
    with zipfile.ZipFile(out) as archive:
        found = set(archive.namelist())
        steps = json.loads(archive.read("steps.json"))
    assert found == {"machine.json", "wheels-to-carry.txt", "doctor.json", "steps.json", "table.txt"}
    assert [step["state"] for step in steps][3:] == ["not run", "not run"]


def test_packages_that_lack_are_named_with_their_pins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(first, "installed", lambda name: name not in ("msgspec", "cuda-bindings"))
    absent = first.missing_packages()
    assert [line.partition("==")[0] for line in absent] == ["msgspec", "cuda-bindings"]
    assert all("==" in line for line in absent)
    step = first.wheels(tmp_path)
    assert step.state == "failed"
    assert "pip download" in step.detail
    assert (tmp_path / "wheels-to-carry.txt").read_text().splitlines() == absent


def test_packages_come_with_all_that_they_need() -> None:
    """`pip download --no-deps` takes what is listed; PyTorch's own are where PyTorch is."""
    listed = {first.normal(name) for names in first.NEEDED.values() for name in names}
    for name in sorted(listed - {"torch", "torchvision", "triton"}):
        needed = {Requirement(line) for line in requires(name) or []}
        here = {
            first.normal(each.name) for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})
        }
        assert here <= listed, name


def test_a_tool_that_fails_says_nothing(tmp_path: Path) -> None:
    """nvidia-smi prints a sentence and fails where the driver is not loaded; that is no GPU."""
    script = (
        "print('NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver'); raise SystemExit(9)"
    )
    assert first.output([sys.executable, "-c", script]) == ""
    assert first.output([sys.executable, "-c", "print('NVIDIA H200, 9.0')"]) == "NVIDIA H200, 9.0\n"
    assert first.output([str(tmp_path / "nothing")]) == ""


def test_the_file_is_written_while_a_step_runs_and_its_children_end_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first, "SECONDS_BETWEEN_RECORDS", 0.2)
    log, folder, out = tmp_path / "log", tmp_path / "steps", tmp_path / "back" / "first.zip"
    folder.mkdir()
    (folder / "gpu.json").write_text("{}")
    seen: list[set[str]] = []

    def meanwhile() -> None:
        first.record([first.Step("benchmarks.gpu", "not run", "")], folder, out)
        with zipfile.ZipFile(out) as archive:
            seen.append(set(archive.namelist()))

    child = "import time, sys; print('child', flush=True); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    assert first.run([sys.executable, "-c", parent], log, 3, meanwhile)[0] is None
    assert seen
    assert seen[-1] == {"gpu.json", "steps.json", "table.txt"}
    assert [path.name for path in out.parent.iterdir()] == ["first.zip"]
    assert first.last_line(log) == "child"
    deadline = time.monotonic() + 30  # less than the child sleeps; a killed one can still be listed for a moment
    while [each for each in running_commands() if child in each]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def running_commands() -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(entry.read_text(errors="replace"))
    return found


def test_a_step_that_takes_too_long_or_fails_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert first.run([sys.executable, "-c", "import time; time.sleep(60)"], log, 1)[0] is None
    assert first.run([sys.executable, "-c", "print('a'); raise SystemExit(3)"], log, 60)[0] == 3
    assert first.last_line(log) == "a"


def test_the_tests_numbers_are_read_from_the_report(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text('<testsuites><testsuite tests="10" failures="1" errors="2" skipped="3"/></testsuites>')
    assert first.counts(report) == "4 passed, 1 failures, 2 errors, 3 skipped"


@pytest.mark.parametrize(("skipped", "state"), [(2, "passed"), (3, "failed")])
def test_a_run_whose_tests_are_all_skipped_has_not_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skipped: int, state: str
) -> None:
    def run(command: list[str], log: Path, seconds: float, meanwhile: object) -> tuple[int, float]:
        (report,) = (Path(each.partition("=")[2]) for each in command if each.startswith("--junitxml="))
        report.write_text(
            f'<testsuites><testsuite tests="3" failures="0" errors="0" skipped="{skipped}"/></testsuites>'
        )
        return 0, 1.0

    monkeypatch.setattr(first, "run", run)
    assert first.tests(tmp_path, quiet).state == state


def test_missed_targets_fail_the_benchmarks_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "targets": [{"name": "a", "met": True}, {"name": "b", "met": False}, {"name": "c", "met": None}],
        "not_measured": {"d": "why"},
    }

    def run(command: list[str], log: Path, seconds: float, meanwhile: object) -> tuple[int, float]:
        Path(command[-1]).write_text(json.dumps(content))
        return 3, 1.0

    monkeypatch.setattr(first, "run", run)
    step = first.benchmark(tmp_path, quiet)
    assert (step.state, step.detail) == ("failed", "1 of 2 targets met; not measured: d; missed: b")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ({"machine": [{"name": "driver", "status": "absent", "found": "none"}]}, "driver: none"),
        ({"machine": [{"name": "disk", "status": "ok", "found": "57 GB"}]}, "all is well"),
    ],
)
def test_the_table_shows_what_the_doctor_found(tmp_path: Path, written: object, shown: str) -> None:
    report = tmp_path / "doctor.json"
    report.write_text(json.dumps(written, indent=2), encoding="utf-8")
    assert first.findings(report) == shown


def test_a_doctor_without_a_report_shows_its_last_line(tmp_path: Path) -> None:
    report = tmp_path / "doctor.json"
    report.write_text("starting\nImportError: no module\n", encoding="utf-8")
    assert first.findings(report) == "ImportError: no module"
