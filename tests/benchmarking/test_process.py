"""Both ends of a model's process."""

import os
import signal
from pathlib import Path

import pytest

from condinst_deploy.benchmarking.process import ModelProcess
from condinst_deploy.benchmarking.settings import cores_for
from condinst_deploy.errors import ArtifactError, BackendError, ConfigError

PICTURES = {"size": [96, 128], "seed": 0}


def test_an_error_comes_back_as_it_was_raised_and_the_process_goes_on(slim_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError")  # a module of the current folder is not taken for Python's
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        process = ModelProcess(slim_checkpoint, cores_for(1))
    with process:
        with pytest.raises(ArtifactError, match=r"nothing\.onnx"):
            process.ask("load", model="nothing.onnx", device="cpu", pictures=PICTURES, batches=[1])
        with pytest.raises(ConfigError, match="batch_size is 0"):
            process.ask("load", model=str(slim_checkpoint), device="cpu", pictures=PICTURES, batches=[0])
        loaded = process.ask("load", model=str(slim_checkpoint), device="cpu", pictures=PICTURES, batches=[1])
        assert (loaded["backend"], loaded["machine"]["cores"], loaded["machine"]["threads"]) == ("torch", 1, 1)
        memory = process.ask("memory")
        assert 0 < memory["before_loading_mb"] < memory["loaded_mb"] <= memory["peak_mb"]
        assert memory["device_in_use_mb"] is None
        os.kill(process._process.pid, signal.SIGINT)  # Ctrl-C is the other end's to answer
        assert process.ask("memory")["peak_mb"] > 0
        os.kill(process._process.pid, signal.SIGKILL)
        with pytest.raises(BackendError, match=r"slim\.pth ended with status -9"):
            process.ask("memory")


def test_an_error_ends_the_process_at_once(slim_checkpoint: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ModelProcess(slim_checkpoint, cores_for(1)) as process:
        raise KeyboardInterrupt
    assert process._process.returncode == -signal.SIGKILL
