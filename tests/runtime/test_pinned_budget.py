"""Pinned memory of PyTorch's side: what images that wait for their batch may take."""

import numpy as np
import torch

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.runtime.decoded_image import DecodedLayout
from condinst_deploy.runtime.device_inputs import DecodedInputs
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
