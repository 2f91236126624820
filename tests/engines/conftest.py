"""Graphs and builders that several test files of this stage share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from condinst_deploy.contract import MANIFEST_KEY
from condinst_engines.flavour import Flavour, load_flavour
from tests.models import SLIM, manifest_of, seeded_model

TINY = replace(SLIM, depth=18, base_width=8, tower_convs=1, mask_branch_channels=16, mask_branch_convs=1)
STATIC = (1, 128, 224)


@pytest.fixture(scope="session")
def rtx() -> Flavour:
    return load_flavour("rtx")


@pytest.fixture(scope="session")
def slim_proto(slim_onnx: Path) -> onnx.ModelProto:
    return onnx.load(str(slim_onnx))


@pytest.fixture(scope="session")
def static_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model exported with fixed shapes."""
    from condinst_export.onnx_file import ExportOptions, onnx_from_model, with_options

    model = seeded_model(TINY)
    manifest = with_options(model, manifest_of(TINY), ExportOptions(max_detections=5, static_shape=STATIC))
    path = tmp_path_factory.mktemp("static") / "tiny.onnx"
    onnx.save(onnx_from_model(model, manifest), str(path))
    return path


@pytest.fixture
def small_graph() -> onnx.ModelProto:
    """Two convolutions with the network's inputs and a manifest: builds in a moment."""
    graph = onnx.parser.parse_model(
        """
        <ir_version: 10, opset_import: ["" : 18]>
        small (uint8[batch, 3, height, width] images, int32[batch, 2] image_sizes) => (float[batch, 4, h, w] boxes)
        {
            pixels = Cast <to: int = 1> (images)
            sizes = Cast <to: int = 1> (image_sizes)
            shape = Constant <value: tensor = int64[4] shape_value {-1, 2, 1, 1}> ()
            first = Conv <pads: ints = [1, 1, 1, 1]> (pixels, first_weight)
            active = Relu (first)
            second = Conv <pads: ints = [1, 1, 1, 1]> (active, second_weight)
            sizes_4d = Reshape (sizes, shape)
            pair = Concat <axis: int = 1> (sizes_4d, sizes_4d)
            boxes = Add (second, pair)
        }
        """
    )
    scopes = {"first": "backbone.first", "active": "backbone.relu", "second": "head.second"}
    for node in graph.graph.node:
        node.name = f"{scopes.get(node.output[0], 'instances')}/{node.op_type}_{node.output[0]}"
    rng = np.random.default_rng(0)
    for name, shape in (("first_weight", (8, 3, 3, 3)), ("second_weight", (4, 8, 3, 3))):
        weight = (rng.standard_normal(shape) * 0.1).astype(np.float32)
        graph.graph.initializer.append(numpy_helper.from_array(weight, name))
    entry = onnx.StringStringEntryProto(key=MANIFEST_KEY, value=manifest_of(SLIM).to_json())
    graph.metadata_props.append(entry)
    onnx.checker.check_model(graph, full_check=True)
    return graph
