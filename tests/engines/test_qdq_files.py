"""Files that have Q/DQ already: which are recognised, and which are refused."""

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from condinst_deploy.errors import EngineError
from condinst_engines.onnx_input import with_lifted_constants
from condinst_engines.precision_policy import Policy
from condinst_engines.quantization.insert import (
    chosen_convolutions,
    insert_qdq,
)
from condinst_engines.quantization.proof import (
    asked_convolutions,
)
from condinst_engines.quantization.requests import described_qdq
from condinst_export.graph_session import holds_fp8
from condinst_export.quantization import u8s8
from tests.support.quantized_graphs import WIDE, recipe_for, scales_for

pytestmark = pytest.mark.usefixtures("one_thread")


def test_files_in_8_bits_are_recognised(small_graph: onnx.ModelProto) -> None:
    assert described_qdq(small_graph) == ""
    asymmetric = u8s8.quantized(small_graph, dict.fromkeys(("pixels", "active", "second"), WIDE), ())
    with pytest.raises(EngineError, match="uint8: TensorRT is symmetric"):
        described_qdq(asymmetric)
    symmetric = symmetric_file(small_graph)
    assert described_qdq(symmetric) == "the file has Q/DQ already (6 nodes, 6 of int8)"
    shifted = next(e for e in symmetric.graph.initializer if e.name == "active_zero_point")
    shifted.CopyFrom(numpy_helper.from_array(np.array(3, dtype=np.int8), shifted.name))
    with pytest.raises(EngineError, match="a zero point that is not 0"):
        described_qdq(symmetric)


def symmetric_file(proto: onnx.ModelProto) -> onnx.ModelProto:
    recipe = recipe_for("int8", ("86",), int8=("backbone.first*", "head.second*"))
    model = ir.from_proto(proto)
    insert_qdq(model, scales_for(proto, recipe), recipe.policy, "float16")
    return ir.to_proto(model)


def with_constant_nodes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as other tools write it: a Constant node for every initializer."""
    graph = onnx.ModelProto()
    graph.CopyFrom(proto)
    nodes = [
        onnx.helper.make_node("Constant", [], [entry.name], value=entry, name=f"constants/{entry.name}")
        for entry in graph.graph.initializer
    ]
    rest = list(graph.graph.node)
    del graph.graph.initializer[:], graph.graph.node[:]
    graph.graph.node.extend([*nodes, *rest])
    onnx.checker.check_model(graph, full_check=True)
    return graph


def test_constant_nodes_are_read_as_initializers_are(small_graph: onnx.ModelProto) -> None:
    symmetric = symmetric_file(small_graph)
    constants = with_constant_nodes(symmetric)
    assert described_qdq(constants) == described_qdq(symmetric) == "the file has Q/DQ already (6 nodes, 6 of int8)"
    assert asked_convolutions(constants) == asked_convolutions(symmetric)
    assert set(asked_convolutions(constants).values()) == {"int8"}
    asymmetric = u8s8.quantized(small_graph, dict.fromkeys(("pixels", "active", "second"), WIDE), ())
    with pytest.raises(EngineError, match="uint8: TensorRT is symmetric"):
        described_qdq(with_constant_nodes(asymmetric))
    lifted = with_lifted_constants(constants)
    left = {node.output[0] for node in lifted.graph.node if node.op_type == "Constant"}
    assert left == {"first_weight", "second_weight", "shape"}  # no convolution, Q or DQ reads them
    assert {entry.name for entry in lifted.graph.initializer} == {e.name for e in symmetric.graph.initializer} - left
    assert with_lifted_constants(symmetric) is symmetric
    plain = with_lifted_constants(with_constant_nodes(small_graph))
    policy = Policy(int8=("backbone.first*", "head.second*"))
    assert len(chosen_convolutions(ir.from_proto(plain), policy, "float16", "int8")) == 2


def test_fp8_is_seen_wherever_a_file_keeps_it(small_graph: onnx.ModelProto) -> None:
    recipe = recipe_for("fp8", ("89",), fp8=("backbone.first*", "head.second*"))
    model = ir.from_proto(small_graph)
    insert_qdq(model, scales_for(small_graph, recipe), recipe.policy, "float16")
    fp8 = ir.to_proto(model)
    assert holds_fp8(fp8)
    assert holds_fp8(with_constant_nodes(fp8))
    assert not holds_fp8(with_constant_nodes(symmetric_file(small_graph)))


def test_a_zero_point_that_is_computed_is_refused_as_such(small_graph: onnx.ModelProto) -> None:
    symmetric = symmetric_file(small_graph)
    node = next(node for node in symmetric.graph.node if node.op_type == "QuantizeLinear")
    copied = onnx.helper.make_node("Identity", [node.input[2]], ["computed"], name="copy")
    node.input[2] = "computed"
    symmetric.graph.node.insert(0, copied)
    with pytest.raises(EngineError, match=f"node {node.name} has a zero point that is computed in the graph"):
        described_qdq(symmetric)


def test_without_zero_points_the_type_is_that_of_the_codes(small_graph: onnx.ModelProto) -> None:
    graph = symmetric_file(small_graph)
    for node in graph.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            del node.input[2]
        if node.op_type == "QuantizeLinear":
            node.attribute.append(onnx.helper.make_attribute("output_dtype", onnx.TensorProto.INT8))
    onnx.checker.check_model(graph, full_check=True)
    assert described_qdq(graph) == "the file has Q/DQ already (6 nodes, 6 of int8)"
    assert set(asked_convolutions(graph).values()) == {"int8"}
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear":
            del node.attribute[:]
    with pytest.raises(EngineError, match="uint8: TensorRT is symmetric"):
        described_qdq(graph)
