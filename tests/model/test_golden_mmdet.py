"""The reference model against mmdetection's own outputs for the same weights and images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from condinst_deploy.evaluation.agreement import agreement
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.model.config import STRIDES
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.batches import host_batch
from tests.support.models import EAGER_TOLERANCE, GOLDEN, GOLDEN_CASES, IMAGES, golden_detections


@pytest.fixture(scope="module")
def backend(mmdet_checkpoint: Path) -> Iterator[TorchBackend]:
    with TorchBackend.load(mmdet_checkpoint, "cpu") as loaded:
        yield loaded


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_detections_are_mmdetections(backend: TorchBackend, case: str) -> None:
    golden = np.load(GOLDEN / "mmdet" / f"{case}_seed0.npz")
    inputs, geometries = host_batch(backend, [rgb_from(IMAGES / f"{name}.png") for name in GOLDEN_CASES[case]])
    assert inputs.images.shape == tuple(golden["input_shape"])
    found = backend.postprocess(backend.forward(inputs), geometries)
    for i, (detections, geometry) in enumerate(zip(found, geometries, strict=True)):
        assert geometry.resized == tuple(golden[f"{i}.img_shape"])
        assert geometry.original == tuple(golden[f"{i}.ori_shape"])
        result = agreement(golden_detections(golden, i), detections)
        assert result.reference_count == 100
        assert result.within(EAGER_TOLERANCE), result


def test_raw_head_outputs_and_mask_features_are_mmdetections(backend: TorchBackend) -> None:
    golden = np.load(GOLDEN / "mmdet" / "coffee_seed0.npz")
    inputs, _ = host_batch(backend, [rgb_from(IMAGES / "coffee.png")])
    model = backend.model
    with torch.no_grad():
        normalized = model.normalize(torch.from_numpy(inputs.images), torch.from_numpy(inputs.image_sizes))
        pyramid = model.fpn(model.backbone(normalized))
        levels, mask_feats = model.head(pyramid), model.mask_branch(pyramid)
    np.testing.assert_allclose(mask_feats.numpy(), golden["mask_feats"], atol=1e-4)
    for i, (level, stride) in enumerate(zip(levels, STRIDES, strict=True)):
        ours = {
            "cls": level.cls_logits,
            "reg": level.distances * stride,
            "ctr": level.centerness,
            "params": level.params,
            "fpn": pyramid[i],
        }
        for name, tensor in ours.items():
            stats = (tensor.mean().item(), tensor.std().item(), tensor.abs().max().item())
            np.testing.assert_allclose(stats, golden[f"stats.{i}.{name}"], rtol=1e-3, atol=1e-4)
        if i >= 2:
            for name in ("cls", "reg", "ctr"):
                np.testing.assert_allclose(ours[name].numpy(), golden[f"head.{i}.{name}"], rtol=1e-5, atol=1e-4)
            np.testing.assert_allclose(ours["params"].numpy(), golden[f"head.{i}.params"], rtol=2e-3, atol=2e-3)
