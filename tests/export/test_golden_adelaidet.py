"""AdelaiDet's detections through ONNX Runtime, from full-size exported files."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from condinst_deploy.contract import NetworkInputs
from condinst_deploy.evaluation.agreement import agreement
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.model.checkpoints import load_model
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_export.onnx_file import ExportOptions, onnx_from_model, with_options
from tests.support.batches import host_batch
from tests.support.models import DEEPER, EXPORTED_TOLERANCE, GOLDEN, IMAGES, adelaidet_detections, adelaidet_state


def exported(checkpoint: Path) -> onnx.ModelProto:
    loaded = load_model(checkpoint)
    return onnx_from_model(loaded.model, with_options(loaded.model, loaded.manifest, ExportOptions()))


@pytest.fixture(scope="module")
def r50(adelaidet_checkpoint: Path) -> OnnxRuntimeBackend:
    return OnnxRuntimeBackend.from_bytes(exported(adelaidet_checkpoint).SerializeToString(), "r50", "cpu")


def assert_adelaidets_detections(backend: OnnxRuntimeBackend, image: str, golden_name: str) -> None:
    golden = np.load(GOLDEN / "adelaidet" / f"{golden_name}.npz")
    inputs, geometries = host_batch(backend, [rgb_from(IMAGES / f"{image}.png")])
    (found,) = backend.postprocess(backend.forward(inputs), geometries)
    result = agreement(adelaidet_detections(golden, 0), found)
    assert result.reference_count > 70
    assert result.within(EXPORTED_TOLERANCE), result


@pytest.mark.parametrize("image", ["coffee", "astronaut"])
def test_detections_are_adelaidets(r50: OnnxRuntimeBackend, image: str) -> None:
    assert r50.manifest.family == "adelaidet"
    assert_adelaidets_detections(r50, image, f"{image}_seed0")


def test_in_a_batch_each_image_gets_its_own_detections(r50: OnnxRuntimeBackend) -> None:
    golden = np.load(GOLDEN / "adelaidet" / "batch_coffee_astronaut_seed0.npz")
    inputs, geometries = host_batch(r50, [rgb_from(IMAGES / f"{name}.png") for name in ("coffee", "astronaut")])
    found = r50.postprocess(r50.forward(inputs), geometries)
    # coffee sets the padded size, so that its own golden output covers it alone
    single = NetworkInputs(inputs.images[1:], inputs.image_sizes[1:])
    (alone,) = r50.postprocess(r50.forward(single), geometries[1:])
    for reference, other in (
        (adelaidet_detections(golden, 0), found[0]),
        (adelaidet_detections(golden, 1), found[1]),
        (alone, found[1]),
    ):
        result = agreement(reference, other)
        assert result.within(EXPORTED_TOLERANCE), result


@pytest.mark.slow
@pytest.mark.parametrize("architecture", DEEPER)
def test_deeper_and_wider_architectures_are_adelaidets(architecture: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(adelaidet_state(architecture), path)
    proto = exported(path)
    # the semantic head is for training alone
    assert not [entry.name for entry in proto.graph.initializer if "semantic" in entry.name]
    with OnnxRuntimeBackend.from_bytes(proto.SerializeToString(), architecture, "cpu") as backend:
        assert_adelaidets_detections(backend, "astronaut", f"astronaut_seed0_{DEEPER[architecture]}")
