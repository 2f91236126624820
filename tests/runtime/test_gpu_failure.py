"""An error of a GPU that stays: the torch backend says so in its own words, and refuses all further work."""

from pathlib import Path
from typing import Any

import pytest
import torch

from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.gpu_failure import STICKY_TEXTS, TorchGuard
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.batches import host_batch
from tests.support.models import noise_image

ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronously reported"


@pytest.mark.parametrize("half", [None, "bfloat16"])
def test_after_an_error_that_stays_the_backend_refuses_further_work(
    slim_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, half: Any
) -> None:
    def fail(*_: Any) -> Any:
        raise torch.AcceleratorError(ILLEGAL)

    with TorchBackend.load(slim_checkpoint, "cpu", half or "float32") as backend:
        inputs, geometries = host_batch(backend, [noise_image(0, 64, 64)])
        outputs = backend.forward(inputs)
        assert len(backend.postprocess(outputs, geometries)) == 1
        monkeypatch.setattr("condinst_deploy.runtime.torch_backend.kernels_run_on", fail)
        with pytest.raises(
            BackendError, match=r"CUDA error \(an illegal memory access .*start a new process"
        ) as raised:
            backend.forward(inputs)
        assert isinstance(raised.value.__cause__, torch.AcceleratorError)
        monkeypatch.undo()
        for call in (
            lambda: backend.forward(inputs),
            lambda: backend.collate([inputs]),
            lambda: backend.postprocess(outputs, geometries),
        ):
            with pytest.raises(BackendError, match=r"failed earlier in this process \(an illegal memory access"):
                call()


@pytest.mark.parametrize("text", STICKY_TEXTS)
def test_each_error_that_stays_is_recognised(text: str) -> None:
    guard = TorchGuard()
    with pytest.raises(BackendError, match="start a new process"), guard.guarded():
        raise RuntimeError(f"CUDA error: {text}")
    assert guard.failure == text


def test_too_little_memory_is_an_error_of_this_run_alone() -> None:
    guard = TorchGuard()
    with (
        pytest.raises(BackendError, match=r"\(CUDA out of memory\); use a smaller batch_size") as raised,
        guard.guarded(),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of")
    assert isinstance(raised.value.__cause__, torch.OutOfMemoryError)
    with guard.guarded():
        pass


def test_other_errors_pass_and_work_goes_on() -> None:
    guard = TorchGuard()
    with pytest.raises(RuntimeError, match="sizes differ"), guard.guarded():
        raise RuntimeError("sizes differ")
    with guard.guarded():
        pass
