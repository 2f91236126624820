"""A graph that builds in a moment."""

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from condinst_deploy.contract import MANIFEST_KEY, ModelManifest
from tests.support.models import SLIM, manifest_of


def small_network(manifest: ModelManifest | None = None) -> onnx.ModelProto:
    """Two convolutions with the network's inputs, names of an exported graph, and a manifest."""
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
    text = (manifest or manifest_of(SLIM)).to_json()
    graph.metadata_props.append(onnx.StringStringEntryProto(key=MANIFEST_KEY, value=text))
    onnx.checker.check_model(graph, full_check=True)
    return graph


def set_weight(proto: onnx.ModelProto, name: str, value: float) -> None:
    """Give one element of an initializer another value."""
    (entry,) = [entry for entry in proto.graph.initializer if entry.name == name]
    weight = numpy_helper.to_array(entry).copy()
    weight.flat[3] = value
    entry.CopyFrom(numpy_helper.from_array(weight, name))
