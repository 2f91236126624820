"""Probes answer with values, whatever their library does."""

import sys
from functools import partial
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from condinst_deploy.doctor import probe_worker
from condinst_deploy.doctor.probes import probe
from condinst_deploy.errors import ConfigError

FAKE = """
import os, sys, time
name = sys.argv[1]
if name == "crash":
    os.abort()
if name == "hang":
    time.sleep(60)
if name == "silent":
    sys.exit(3)
if name == "noise":
    sys.stderr.write("the driver is broken\\n")
    print("no json")
    sys.exit(1)
print("chatter of a library")
print('{"version": "1.0"}')
"""


probe_fake = partial(probe, module="fake_worker")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_worker.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("fake")
def test_the_last_line_is_the_answer() -> None:
    assert probe_fake("good") == {"version": "1.0"}


@pytest.mark.usefixtures("fake")
def test_no_library_is_to_blame_for_a_current_folder_that_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match="current folder was deleted"):
        probe_fake("noise")


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("crash", "its process ended with status -6 and no answer"),
        ("silent", "its process ended with status 3 and no answer"),
        ("noise", "its process ended with status 1 and no answer: the driver is broken"),
    ],
)
def test_a_process_that_ends_without_an_answer_is_a_finding(name: str, reason: str) -> None:
    assert probe_fake(name) == {"failed": reason}


@pytest.mark.usefixtures("fake")
def test_a_library_that_hangs_is_a_finding() -> None:
    assert probe_fake("hang", seconds=0.5) == {"failed": "no answer within 0.5 s"}


def test_a_python_that_cannot_be_started_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert probe("torch") == {"failed": "its process cannot be started (No such file or directory)"}


def test_a_library_that_is_not_installed_is_missing() -> None:
    assert "missing" in probe("tensorrt", "no_such_tensorrt")


def test_an_unknown_probe_fails() -> None:
    assert "failed" in probe("no such probe")


def test_onnx_runtime_is_probed_for_real() -> None:
    found = probe("onnxruntime")
    assert found["providers"]["CPUExecutionProvider"] is True


def test_the_probes_model_is_the_one_that_onnx_writes() -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert onnx.ModelProto.FromString(probe_worker.IDENTITY) == made


def test_a_model_is_loaded_and_run(slim_onnx: Path) -> None:
    found = probe("model", str(slim_onnx))
    assert (found["backend"], found["device"], found["precision"]) == ("onnxruntime", "cpu", "float32")


def test_a_model_that_cannot_be_loaded_says_why(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    assert "broken.onnx" in probe("model", str(path))["error"]


def test_triton_is_tried_where_its_cache_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton", reason="the probe compiles with Triton")
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "file" / "cache"))
    answer = probe("triton")
    assert (answer["compiles"], answer["cache_writable"]) == (True, False)
    assert answer["cache"] == str(tmp_path / "file" / "cache")
