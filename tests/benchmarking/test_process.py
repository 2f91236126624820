"""Both ends of a model's process."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from condinst_deploy.benchmarking import memory, worker
from condinst_deploy.benchmarking.benchmark_settings import cores_for
from condinst_deploy.benchmarking.machine import machine
from condinst_deploy.benchmarking.process import ModelProcess
from condinst_deploy.errors import ArtifactError, BackendError, ConfigError
from condinst_deploy.support import current_folder

IMAGES = {"size": [96, 128], "seed": 0}


def test_an_error_comes_back_as_it_was_raised_and_the_process_goes_on(slim_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError")  # a module of the current folder is not taken for Python's
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        process = ModelProcess(slim_checkpoint, cores_for(1))
    with process:
        with pytest.raises(ArtifactError, match=r"nothing\.onnx"):
            process.ask("load", model="nothing.onnx", device="cpu", images=IMAGES, batches=[1])
        with pytest.raises(ConfigError, match="batch_size is 0"):
            process.ask("load", model=str(slim_checkpoint), device="cpu", images=IMAGES, batches=[0])
        loaded = process.ask("load", model=str(slim_checkpoint), device="cpu", images=IMAGES, batches=[1])
        assert (loaded["backend"], loaded["machine"]["cores"], loaded["machine"]["threads"]) == ("torch", 1, 1)
        memory = process.ask("memory")
        assert 0 < memory["before_loading_mb"] < memory["loaded_mb"] <= memory["peak_mb"]
        assert memory["device_in_use_mb"] is None
        os.kill(process.pid, signal.SIGINT)  # Ctrl-C is the other end's to answer
        assert process.ask("memory")["peak_mb"] > 0
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(BackendError, match=r"slim\.pth ended with status -9"):
            process.ask("memory")


def test_an_error_ends_the_process_at_once(slim_checkpoint: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ModelProcess(slim_checkpoint, cores_for(1)) as process:
        raise KeyboardInterrupt
    assert process.returncode == -signal.SIGKILL


def test_gpu_memory_is_what_came_into_use_while_the_model_was_at_work(
    slim_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # before and after loading, then of a call; between them another process takes 300
    free = iter([1000.0, 900.0, 600.0, 550.0])
    monkeypatch.setattr(memory, "free_device_mb", lambda device: next(free))
    one = worker.Worker()
    loaded = one.load(str(slim_checkpoint), "cpu", IMAGES, [1])
    assert loaded["first_of_shapes"] == [0]
    one.call(1, 0)
    assert one.memory()["device_in_use_mb"] == 150


def test_a_request_that_fails_says_so_and_the_process_goes_on() -> None:
    nothing_loaded = worker.Worker()
    for request in ({"verb": "memory"}, {"verb": "call", "batch": 3, "number": 0}):
        answer = worker.answered(nothing_loaded, dict(request))
        assert answer["error"] == "BackendError"
        assert "failed (AttributeError: " in answer["message"]
    assert answer["message"].startswith("a batch of 3 failed")


def test_a_current_folder_that_is_gone_is_named(
    tmp_path: Path, slim_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    answer = worker.answered(worker.Worker(), {"verb": "load", "model": "nothing of this is read"})
    assert answer == {"error": "BackendError", "message": current_folder.GONE}
    with (
        pytest.raises(BackendError, match="current folder was deleted"),
        ModelProcess(slim_checkpoint, cores_for(1), [sys.executable, "-c", "raise SystemExit(2)"]) as process,
    ):
        process.ask("load")


def test_a_library_that_cannot_be_loaded_is_an_answer() -> None:
    class Broken:
        def load(self) -> None:
            raise ImportError("libtorch_cpu.so: failed to map segment", path="/lib/torch/_C.so")

    answer = worker.answered(Broken(), {"verb": "load"})
    assert answer["error"] == "BackendError"
    assert answer["message"].startswith("/lib/torch/_C.so cannot be loaded (libtorch_cpu.so: failed to map segment);")


def test_the_gpu_that_is_described_is_the_one_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the GPU {device}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, int(device[-1])))
    described = machine(device="cuda:1")
    assert (described["gpu"], described["capability"]) == ("the GPU cuda:1", "9.1")
    assert "gpu" not in machine(device="cpu")
