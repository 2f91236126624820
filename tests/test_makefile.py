"""Messages of `make` while it installs, and the order of the test files."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.conftest import LONGEST_FILES, started_at

ROOT = Path(__file__).parent.parent


@pytest.fixture
def install(tmp_path: Path) -> list[str]:
    """`make install` with a stand-in for the environment's Python that only says how it was called."""
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text('#!/bin/sh\n[ "$4" = "" ] || echo "pip $*"\n')
    python.chmod(0o755)
    return ["make", "--no-print-directory", "install", f"VENV={tmp_path}", "MIN_FREE_GB=0"]


def test_a_log_gets_a_line_a_stage(install: list[str]) -> None:
    out = subprocess.run(install, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in out] == ["Installing", "-", "pip", "pip", out[-1].split()[0]]
    assert all("install --quiet" in line for line in out[2:4])
    assert out[-1].endswith("is ready")


def test_a_terminal_sees_what_pip_does(install: list[str]) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "wb") as terminal:
        subprocess.run(install, cwd=ROOT, stdout=terminal, stderr=terminal, check=True)
    with os.fdopen(ours, "rb", buffering=0) as screen:
        calls = [line for line in screen.read(65536).decode().splitlines() if line.startswith("pip ")]
    assert len(calls) == 2
    assert all("install --disable-pip-version-check" in call and "--quiet" not in call for call in calls)


def test_a_full_disk_is_found_before_anything_is_fetched(tmp_path: Path) -> None:
    make = ["make", "--no-print-directory", "check-disk", f"VENV={tmp_path}", "MIN_FREE_GB=1000000000"]
    run = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert "need 1000000000 GB; free some space, then run make env again" in run.stderr
    (tmp_path / "lib").mkdir()
    assert subprocess.run(make, cwd=ROOT, check=False).returncode == 0


def test_the_longest_test_files_start_first() -> None:
    """Without the option xdist starts the files with the most tests first; the longest ones have few."""
    names = [path.relative_to(ROOT / "tests").as_posix() for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    assert sorted(names, key=started_at)[: len(LONGEST_FILES)] == list(LONGEST_FILES)
    runs = [line for line in (ROOT / "Makefile").read_text().splitlines() if "--dist loadfile" in line]
    assert len(runs) == 2
    assert all("--no-loadscope-reorder" in line for line in runs)


def test_a_test_process_that_dies_ends_the_run() -> None:
    """Where xdist replaces it, the run waits for ever for the tests that the dead process had."""
    runs = [line for line in (ROOT / "Makefile").read_text().splitlines() if "--dist loadfile" in line]
    assert all("--max-worker-restart=0" in line for line in runs)
