"""The first minutes on a GPU, where there is none: it says so, and the one file is there all the same."""

import json
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest

from condinst_deploy.runtime.devices import driver_present
from tests.support.interpreter import ROOT

first = import_module("benchmarks.gpu_first")


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


def test_a_step_that_takes_too_long_or_fails_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert first.run([sys.executable, "-c", "import time; time.sleep(60)"], log, 1)[0] is None
    assert first.run([sys.executable, "-c", "print('a'); raise SystemExit(3)"], log, 60)[0] == 3
    assert first.last_line(log) == "a"


def test_the_tests_numbers_are_read_from_the_report(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text('<testsuites><testsuite tests="10" failures="1" errors="2" skipped="3"/></testsuites>')
    assert first.counts(report) == "4 passed, 1 failures, 2 errors, 3 skipped"


def test_missed_targets_fail_the_benchmarks_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {
        "targets": [{"name": "a", "met": True}, {"name": "b", "met": False}, {"name": "c", "met": None}],
        "not_measured": {"d": "why"},
    }

    def run(command: list[str], log: Path, seconds: float) -> tuple[int, float]:
        Path(command[-1]).write_text(json.dumps(content))
        return 3, 1.0

    monkeypatch.setattr(first, "run", run)
    step = first.benchmark(tmp_path)
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
