"""The full-size exported file: mmdetection's detections through ONNX Runtime."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from condinst_deploy.contract import NetworkInputs
from condinst_deploy.evaluation.agreement import agreement
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from tests.support.batches import host_batch
from tests.support.models import EXPORTED_TOLERANCE, GOLDEN, IMAGES, golden_detections


@pytest.fixture(scope="module")
def backend(exported_r50: dict[str, Any]) -> Iterator[OnnxRuntimeBackend]:
    with OnnxRuntimeBackend.load(Path(exported_r50["path"]), "cpu") as loaded:
        yield loaded


def test_the_command_verified_several_sizes_and_a_batch(exported_r50: dict[str, Any]) -> None:
    cases = exported_r50["verification"]["cases"]
    assert [1, 3, 320, 320] in [case["shape"] for case in cases]
    assert {case["shape"][0] for case in cases} == {1, 2}
    assert len({tuple(case["shape"][2:]) for case in cases}) >= 4
    assert all(case["matched"] == case["reference"] == case["other"] > 0 for case in cases)


@pytest.mark.parametrize("name", ["coffee", "astronaut"])
def test_detections_are_mmdetections(backend: OnnxRuntimeBackend, name: str) -> None:
    golden = np.load(GOLDEN / "mmdet" / f"{name}_seed0.npz")
    inputs, geometries = host_batch(backend, [rgb_from(IMAGES / f"{name}.png")])
    (found,) = backend.postprocess(backend.forward(inputs), geometries)
    result = agreement(golden_detections(golden, 0), found)
    assert result.within(EXPORTED_TOLERANCE), result


def test_in_a_batch_each_image_gets_its_own_detections(backend: OnnxRuntimeBackend) -> None:
    golden = np.load(GOLDEN / "mmdet" / "batch_coffee_astronaut_seed0.npz")
    inputs, geometries = host_batch(backend, [rgb_from(IMAGES / f"{name}.png") for name in ("coffee", "astronaut")])
    found = backend.postprocess(backend.forward(inputs), geometries)
    for i, geometry in enumerate(geometries):
        single = NetworkInputs(inputs.images[i : i + 1], inputs.image_sizes[i : i + 1])
        (alone,) = backend.postprocess(backend.forward(single), [geometry])
        for reference in (golden_detections(golden, i), alone):
            result = agreement(reference, found[i])
            assert result.within(EXPORTED_TOLERANCE), result


def test_the_file_shows_the_two_operations_as_two_nodes(exported_r50: dict[str, Any]) -> None:
    proto = onnx.load(exported_r50["path"])
    onnx.checker.check_model(proto, full_check=True)
    special = [node.op_type for node in proto.graph.node if node.domain == "condinst"]
    assert sorted(special) == ["DynamicMaskHead", "SelectInstances"]
    assert {(entry.domain, entry.version) for entry in proto.opset_import} == {("", 18), ("condinst", 1)}
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*proto.graph.input, *proto.graph.output)
    }
    assert shapes == {
        "images": ["batch", 3, "height", "width"],
        "image_sizes": ["batch", 2],
        "num_detections": ["batch"],
        "boxes": ["batch", 100, 4],
        "scores": ["batch", 100],
        "labels": ["batch", 100],
        "mask_logits": ["batch", 100, "height/8", "width/8"],
    }


def test_the_file_tells_nothing_of_the_machine_that_made_it(exported_r50: dict[str, Any]) -> None:
    content = Path(exported_r50["path"]).read_bytes()
    for trace in (b"site-packages", b"condinst_export", b"graph.py", b"line ", bytes(Path.cwd())):
        assert trace not in content
