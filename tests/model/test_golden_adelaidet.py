"""The reference model against AdelaiDet's own outputs for the same weights and images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from condinst_deploy.evaluation.agreement import agreement
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.batches import host_batch
from tests.support.models import (
    DEEPER,
    EAGER_TOLERANCE,
    GOLDEN,
    GOLDEN_CASES,
    IMAGES,
    adelaidet_detections,
    adelaidet_state,
)


@pytest.fixture(scope="module")
def r50(adelaidet_checkpoint: Path) -> Iterator[TorchBackend]:
    with TorchBackend.load(adelaidet_checkpoint, "cpu") as loaded:
        yield loaded


def assert_adelaidets_detections(backend: TorchBackend, names: list[str], golden: Any) -> None:
    inputs, geometries = host_batch(backend, [rgb_from(IMAGES / f"{name}.png") for name in names])
    found = backend.postprocess(backend.forward(inputs), geometries)
    for i, (detections, geometry) in enumerate(zip(found, geometries, strict=True)):
        assert geometry.resized == tuple(golden[f"im{i}_resized_hw"])
        assert geometry.original == tuple(golden[f"im{i}_original_hw"])
        assert inputs.images.shape[2:] == tuple(golden[f"im{i}_padded_hw"])
        reference = adelaidet_detections(golden, i)
        assert len(reference) > 70
        result = agreement(reference, detections)
        assert result.within(EAGER_TOLERANCE), result


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_detections_are_adelaidets(r50: TorchBackend, case: str) -> None:
    golden = np.load(GOLDEN / "adelaidet" / f"{case}_seed0.npz")
    assert_adelaidets_detections(r50, GOLDEN_CASES[case], golden)


def test_raw_head_outputs_and_mask_features_are_adelaidets(r50: TorchBackend) -> None:
    golden = np.load(GOLDEN / "adelaidet" / "coffee_seed0.npz")
    inputs, _ = host_batch(r50, [rgb_from(IMAGES / "coffee.png")])
    with torch.no_grad():
        features = r50.model.features(r50.model.normalize(*(torch.from_numpy(array) for array in inputs)))
    np.testing.assert_allclose(features.mask_feats.numpy(), golden["mask_feats"], atol=1e-4)
    p5 = features.levels[2]
    for name, tensor in (("cls", p5.cls_logits), ("reg", p5.distances), ("ctr", p5.centerness), ("top", p5.params)):
        np.testing.assert_allclose(tensor.numpy(), golden[f"{name}_p5"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("architecture", DEEPER)
def test_deeper_and_wider_architectures_are_adelaidets(architecture: str, tmp_path: Path) -> None:
    golden = np.load(GOLDEN / "adelaidet" / f"astronaut_seed0_{DEEPER[architecture]}.npz")
    path = tmp_path / "model.pth"
    torch.save(adelaidet_state(architecture), path)
    pyramid: list[Tensor] = []
    with TorchBackend.load(path, "cpu") as backend:
        backend.model.fpn.register_forward_hook(lambda module, args, output: pyramid.extend(output))
        assert_adelaidets_detections(backend, ["astronaut"], golden)
    for i, level in enumerate(pyramid, start=3):
        found = (level.mean().item(), level.std().item(), level.abs().max().item())
        np.testing.assert_allclose(found, golden[f"stat_p{i}"], rtol=1e-3, atol=1e-4)
        if f"sample_p{i}" in golden.files:
            np.testing.assert_allclose(level[:, ::16, ::4, ::4].numpy(), golden[f"sample_p{i}"], atol=1e-5)
