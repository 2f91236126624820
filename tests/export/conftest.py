"""The full-size model, exported once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def exported_r50(mmdet_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `condinst-export --weights condinst_r50.pth --json` says; `path` is the file it wrote."""
    folder = tmp_path_factory.mktemp("r50")
    command = [str(Path(sys.executable).parent / "condinst-export"), "--weights", str(mmdet_checkpoint), "--json"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    summary: dict[str, Any] = json.loads(run.stdout)
    assert Path(summary["path"]) == folder / "export" / "build" / "condinst_r50.onnx"
    return summary
