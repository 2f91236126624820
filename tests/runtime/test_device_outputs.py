"""Outputs that stay on the device that made them."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from condinst_deploy.contract import NetworkOutputs
from condinst_deploy.errors import BackendError
from condinst_deploy.kernels.host_memory import to_device
from condinst_deploy.model.condinst import Instances
from condinst_deploy.runtime import device_backend
from condinst_deploy.runtime.device_backend import DeviceBackend
from condinst_deploy.runtime.device_outputs import DeviceOutputs, side_stream
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.batches import host_batch
from tests.support.gpu_work import occupy
from tests.support.models import noise_image


def instances(counts: list[int], slots: int = 4) -> Instances:
    batch = len(counts)
    logits = torch.arange(batch * slots * 6.0).reshape(batch, slots, 2, 3)
    boxes, scores = torch.rand(batch, slots, 4), torch.rand(batch, slots)
    return Instances(torch.tensor(counts, dtype=torch.int32), boxes, scores, (scores * 3).int(), logits)


@pytest.mark.parametrize("counts", [[2, 0, 3], [0, 0], [4], []])
def test_only_the_slots_in_use_cross_to_the_host(counts: list[int]) -> None:
    given = instances(counts)
    outputs = DeviceOutputs.of(given).on_host()
    used = max(counts, default=0)
    np.testing.assert_array_equal(outputs.mask_logits, given.mask_logits[:, :used].numpy())
    for ours, theirs in zip(outputs[:-1], given[:-1], strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())


def test_a_logit_that_is_not_finite_is_an_error_in_an_empty_slot_too() -> None:
    given = instances([1, 0])
    given.mask_logits[1, 3, 1, 2] = float("nan")
    with pytest.raises(BackendError, match="NaN or infinity"):
        DeviceOutputs.of(given).on_host()


def test_what_is_not_finite_in_a_blank_image_does_not_matter() -> None:
    given = instances([1, 0])
    given.mask_logits[1, 3, 1, 2] = float("nan")
    assert DeviceOutputs.of(given).on_host(1).num_detections.tolist() == [1, 0]
    with pytest.raises(BackendError, match="NaN or infinity"):
        DeviceOutputs.of(given).on_host(2)


def test_on_a_cpu_a_backend_gives_host_arrays_and_has_nothing_to_wait_for(slim_checkpoint: Path) -> None:
    with TorchBackend.load(slim_checkpoint, "cpu") as backend:
        inputs, _ = host_batch(backend, [noise_image(1, 64, 64)])
        outputs = backend.forward(inputs)
        backend.synchronize()
    assert isinstance(outputs, NetworkOutputs)


@pytest.mark.gpu
def test_outputs_can_be_taken_on_another_stream() -> None:
    """The maker's stream is busy; what reads on another waits for it, and not the host."""
    maker, reader = torch.cuda.Stream(), torch.cuda.Stream()
    given = instances([2, 1])
    with torch.cuda.stream(maker):
        occupy(50_000_000)
        outputs = DeviceOutputs.of(Instances(*(tensor.cuda(non_blocking=True) + 0 for tensor in given)))
    with torch.cuda.stream(reader):
        found = outputs.on_host()
    np.testing.assert_array_equal(found.mask_logits, given.mask_logits[:, :2].numpy())
    np.testing.assert_array_equal(found.boxes, given.boxes.numpy())


@pytest.mark.gpu
def test_a_side_stream_is_its_callers_alone_and_used_again() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    before = torch.cuda.current_stream()
    with side_stream(device):
        first = torch.cuda.current_stream()
        with side_stream(device):
            second = torch.cuda.current_stream()
        assert torch.cuda.current_stream() == first
    assert torch.cuda.current_stream() == before
    assert len({before, first, second}) == 3
    with side_stream(device):
        assert torch.cuda.current_stream() in (first, second)


def test_on_a_cpu_there_is_nothing_to_stand_aside_for() -> None:
    array = np.arange(6, dtype=np.uint8)
    with side_stream(torch.device("cpu")):
        assert to_device(array, torch.device("cpu")).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.gpu
def test_inputs_cross_behind_work_that_the_caller_does_not_wait_for() -> None:
    array = np.arange(1 << 16, dtype=np.uint8)
    to_device(array, torch.device("cuda"))  # pinned memory is made the first time, which waits
    torch.cuda.synchronize()
    occupy(2_000_000_000)  # about a second
    crossed = to_device(array, torch.device("cuda"))
    assert not torch.cuda.current_stream().query()
    np.testing.assert_array_equal(crossed.cpu().numpy(), array)


class GpuBackend(DeviceBackend):
    """A backend on a GPU, without a network."""

    name = "torch"
    load = forward = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(torch.device("cuda", 0))


def test_a_gpu_that_failed_is_named_by_the_health_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(array: Any, device: torch.device) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")

    monkeypatch.setattr(device_backend, "side_stream", lambda device: nullcontext())
    backend = GpuBackend()
    monkeypatch.setattr(device_backend, "to_device", lambda array, device: torch.from_numpy(array))
    backend.check_health()
    monkeypatch.setattr(device_backend, "to_device", lambda array, device: torch.zeros(len(array)))
    with pytest.raises(BackendError, match="does not give back the bytes"):
        backend.check_health()
    monkeypatch.setattr(device_backend, "to_device", fail)
    with pytest.raises(BackendError, match=r"\(an illegal memory access was encountered\).* any more: start a new"):
        backend.check_health()
    with pytest.raises(BackendError, match=r"failed earlier .*\(an illegal memory access was encountered\); start"):
        backend.synchronize()


@pytest.mark.gpu
def test_a_gpu_that_works_passes_the_health_call() -> None:
    GpuBackend().check_health()
