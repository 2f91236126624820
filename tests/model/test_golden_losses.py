"""Losses, targets, gradients and norm statistics against mmdetection's for one training batch."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.losses import Losses, LossSettings, condinst_losses
from condinst_deploy.model.targets import ImageTargets, assign, locations_at
from condinst_deploy.model.weight_names import MMDET
from tests.support.golden_losses import assert_backbone_untouched, assert_gradient_norms, assert_norm_statistics
from tests.support.models import GOLDEN

# the gradient of one norm in layer2 is a small difference of large sums: with one thread its norm is off by 1.04e-3
pytestmark = pytest.mark.usefixtures("two_threads")

SETTINGS = {
    "default_max300": LossSettings(),
    "max20_seed": LossSettings(max_masks=20),
    "topk12": LossSettings(max_masks=None, masks_per_image=12),
}
NAMES = {"cls": "loss_cls", "box": "loss_bbox", "centerness": "loss_centerness", "mask": "loss_mask"}


@pytest.fixture(scope="module")
def golden() -> Any:
    return np.load(GOLDEN / "mmdet" / "losses_seed0.npz")


@pytest.fixture(scope="module")
def metrics() -> Any:
    return json.loads((GOLDEN / "mmdet" / "losses_seed0.json").read_text())


def batch_targets(golden: Any) -> list[ImageTargets]:
    targets = []
    for i in range(2):
        n, height, width = golden[f"gt{i}_masks_shape"]
        bits = np.unpackbits(golden[f"gt{i}_masks_packed"], axis=1)[:, : height * width]
        targets.append(
            ImageTargets(
                torch.from_numpy(golden[f"gt{i}_bboxes"]),
                torch.from_numpy(golden[f"gt{i}_labels"]),
                torch.from_numpy(bits.reshape(n, height, width).astype(bool)),
            )
        )
    return targets


@pytest.fixture(scope="module", params=SETTINGS)
def step(request: pytest.FixtureRequest, mmdet_checkpoint: Path, golden: Any) -> tuple[str, CondInst, Losses]:
    """One forward and backward pass in training mode."""
    model = load_model(mmdet_checkpoint).model
    model.backbone.freeze(2, norm_eval=True)
    model.train()
    orders: Iterator[torch.Tensor] = iter([torch.from_numpy(golden[f"max20_seed/perm{i}"]) for i in range(2)])

    def draw(_image: int, n: int) -> torch.Tensor:
        order = next(orders)
        assert len(order) == n
        return torch.empty(n).scatter(0, order, torch.arange(n, dtype=torch.float32))  # rises in this order

    features = model.features(torch.from_numpy(golden["input"]))
    losses = condinst_losses(features, batch_targets(golden), SETTINGS[request.param], draw=draw)
    losses.total.backward()
    return request.param, model, losses


def test_losses_are_mmdetections(step: tuple[str, CondInst, Losses], metrics: Any) -> None:
    setting, _, losses = step
    want = metrics[setting]["losses"]
    for name, value in losses.terms.items():
        assert value.item() == pytest.approx(want[NAMES[name]], rel=1e-5)
    assert losses.total.item() == pytest.approx(metrics[setting]["total"], rel=1e-5)


def test_every_gradient_norm_is_mmdetections(step: tuple[str, CondInst, Losses], metrics: Any) -> None:
    setting, model, _ = step
    assert_gradient_norms(model, metrics[setting]["grad_norms"], MMDET)


def test_norm_statistics_after_the_step_are_mmdetections(step: tuple[str, CondInst, Losses], golden: Any) -> None:
    _, model, _ = step
    assert_norm_statistics(model, golden, "bn_after/", MMDET)


def test_frozen_norms_keep_their_statistics(step: tuple[str, CondInst, Losses], mmdet_checkpoint: Path) -> None:
    _, model, _ = step
    assert_backbone_untouched(model, mmdet_checkpoint)


def test_positives_are_mmdetections(golden: Any) -> None:
    height, width = golden["input"].shape[2:]
    locations = locations_at(height, width, torch.device("cpu"))
    for i, targets in enumerate(batch_targets(golden)):
        found = assign(locations, targets)
        assert found.locations.tolist() == golden[f"pos{i}_inds"].tolist()
        assert found.instances.tolist() == golden[f"pos{i}_gt_inds"].tolist()
        assert torch.equal(locations.points[found.locations], torch.from_numpy(golden[f"pos{i}_points"]))
        assert torch.equal(locations.strides[found.locations], torch.from_numpy(golden[f"pos{i}_strides"]))
