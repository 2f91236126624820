"""Pinned memory of PyTorch's side: what images that wait for their batch may take."""

import numpy as np
import pytest
import torch

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.kernels.host_memory import copied_to, host_tensor
from condinst_deploy.runtime import device_inputs
from condinst_deploy.runtime.decoded_image import DecodedLayout
from condinst_deploy.runtime.device_inputs import DecodedInputs, DeviceInputs, DeviceWriter
from condinst_deploy.runtime.host_inputs import inputs_of_image
from condinst_deploy.runtime.pinned_budget import PinnedBudget
from tests.support.models import noise_image


def test_shares_come_back_when_nothing_holds_them() -> None:
    budget = PinnedBudget(100)
    first, second = budget.share(60), budget.share(40)
    assert first is not None
    assert second is not None
    assert budget.share(1) is None
    del first
    assert budget.used == 40
    assert budget.share(61) is None
    assert budget.share(60) is not None  # and it is gone at once
    assert budget.used == 40


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has pinned memory")
def test_where_no_memory_can_be_pinned_ordinary_memory_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch refuses to pin memory where there is no GPU, as it does where the system's limit is reached."""
    with pytest.raises(RuntimeError):
        torch.empty(1, pin_memory=True)
    with pytest.warns(UserWarning, match="no more pinned memory"):
        assert host_tensor((2, 3), torch.int32, pinned=True).shape == (2, 3)
    image, geometry = noise_image(0, 40, 60), ImageGeometry((40, 60), (64, 96), (64, 96))
    gpu = torch.device("cuda", 0)
    for kernels, kind in ((True, DecodedInputs), (False, DeviceInputs)):
        monkeypatch.setattr(device_inputs, "kernels_run_on", lambda _, kernels=kernels: kernels)
        with pytest.warns(UserWarning, match="no more pinned memory"):
            part = DeviceWriter(gpu).from_image(image, geometry)
        assert isinstance(part, kind)
        np.testing.assert_array_equal(part.on_host().images, inputs_of_image(image, geometry).images)


def test_a_copy_of_ordinary_memory_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some machines' GPUs read ordinary memory by themselves, after the call."""
    asked: list[bool] = []
    tensor = torch.zeros(4)

    def moved(self: torch.Tensor, device: torch.device, *, non_blocking: bool) -> torch.Tensor:
        asked.append(non_blocking)
        return self

    monkeypatch.setattr(torch.Tensor, "to", moved)
    for pinned in (False, True):
        monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self, pinned=pinned: pinned)
        copied_to(tensor, torch.device("cuda", 0))
    assert asked == [False, True]


def test_an_image_without_room_gives_what_a_pinned_one_gives() -> None:
    image, geometry = noise_image(0, 40, 60), ImageGeometry((40, 60), (64, 96), (64, 96))
    layout = DecodedLayout.of(geometry)
    memory = torch.empty(layout.nbytes, dtype=torch.uint8)
    layout.write(memory.numpy(), image)
    want = inputs_of_image(image, geometry)
    for inputs in (DecodedInputs(layout, memory), DecodedInputs(layout, image=image)):
        assert inputs.shape == want.images.shape
        np.testing.assert_array_equal(inputs.on_host().images, want.images)
        np.testing.assert_array_equal(inputs.on_host().image_sizes, want.image_sizes)
