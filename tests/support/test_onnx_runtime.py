"""ONNX Runtime's telemetry is off, unless the user wants it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

SCRIPT = """
import os
from condinst_deploy.support.onnx_runtime import onnx_runtime
onnx_runtime()
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""


@pytest.mark.parametrize("choice", [None, "1"])
def test_nothing_is_written_into_the_home_folder(choice: str | None, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    environment |= {} if choice is None else {"ORT_DISABLE_TELEMETRY": choice}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
    assert list(tmp_path.rglob("*")) == []


def test_the_choice_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from condinst_deploy.support.onnx_runtime import onnx_runtime

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    onnx_runtime()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
