"""Every script of a fault that was found once prints PASS."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SLOW = {"11_ctrl_c_does_not_stop", "13_markup_from_files", "18_disk_full_tracebacks", "20_sigterm_litter"}
"""They take more than half a minute on two cores."""

NEEDS_ROOT = {"18_disk_full_tracebacks"}
"""They mount a small file system."""

SCRIPTS = sorted(path for path in HERE.glob("*/[0-9]*") if path.suffix in (".py", ".sh"))


def cases() -> list[object]:
    return [
        pytest.param(path, id=f"{path.parent.name}/{path.stem}", marks=[pytest.mark.slow] * (path.stem in SLOW))
        for path in SCRIPTS
    ]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The commands beside this Python, and the code of this checkout."""
    code = os.pathsep.join(str(ROOT / folder) for folder in (".", "export", "engines"))
    return os.environ | {
        "CONDINST_REPO": str(ROOT),
        "CONDINST_BIN": str(Path(sys.executable).parent),
        "CONDINST_CACHE": str(tmp_path_factory.mktemp("cases")),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": code,
    }


@pytest.mark.parametrize("script", cases())
def test_case(script: Path, environment: dict[str, str]) -> None:
    if script.stem in NEEDS_ROOT and os.geteuid() != 0:
        pytest.skip("needs root: it mounts a small file system")
    command = ["bash" if script.suffix == ".sh" else sys.executable, str(script)]
    done = subprocess.run(
        command, cwd=script.parent, env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    if "permission denied" in done.stderr.lower() and "mount" in done.stderr:
        pytest.skip("needs the right to mount a file system, which this container does not have")
    lines = done.stdout.splitlines()
    assert any(line.startswith("PASS") for line in lines), done.stdout + done.stderr
    assert not any(line.startswith("FAIL") for line in lines), done.stdout


def test_all_scripts_are_found() -> None:
    assert len(SCRIPTS) >= 15
    assert {path.parent.name for path in SCRIPTS} >= {"attack", "reports"}
