"""What `make` shows while it installs."""

import os
import pty
import subprocess
from pathlib import Path

import pytest

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
    assert [line.split()[0] for line in out] == ["Installing", "-", "pip", out[-1].split()[0]]
    assert "install --quiet" in out[2]
    assert out[-1].endswith("is ready")


def test_a_terminal_sees_what_pip_does(install: list[str]) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "wb") as terminal:
        subprocess.run(install, cwd=ROOT, stdout=terminal, stderr=terminal, check=True)
    with os.fdopen(ours, "rb", buffering=0) as screen:
        (call,) = [line for line in screen.read(65536).decode().splitlines() if line.startswith("pip ")]
    assert "install --disable-pip-version-check" in call
    assert "--quiet" not in call
