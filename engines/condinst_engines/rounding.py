"""Simulation of mixed precision: float32 arithmetic with every half tensor rounded.

ONNX Runtime has no bfloat16 convolutions on a CPU, and runs float16 ones in float32 with casts around them that it
may merge. Here the same graph is run with the rounding written out: weights, casts and the result of every half
node pass through the half type once. Engines accumulate in float32, too, but keep what they fuse unrounded, so this
overestimates the error.
"""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from condinst_engines.node_types import FLOAT, HALVES, value_types

EXACT = "_exact"
"""Suffix of a node's result before it is rounded."""


def rounded(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph that rounds where `proto` has float16 or bfloat16 tensors.

    Values keep their names. Outputs of a half type become float32.

    Args:
        proto: a graph of mixed precision, its functions inlined; it is left as it is.
    """
    return _in_float32(proto, _round)


def widened(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph of `rounded` without the rounding of what nodes make: nothing overflows that float32 can hold.

    Weights keep the half type's values.

    Args:
        proto: as `rounded`'s.
    """
    return _in_float32(proto, _widen)


def _in_float32(proto: onnx.ModelProto, treat: Callable[[ir.Graph, ir.Value, ir.DataType], None]) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    model = ir.from_proto(copy)
    types = value_types(model)
    for value in model.graph.initializers.values():
        if value.dtype in HALVES and value.const_value is not None:
            value.const_value = ir.Tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.dtype = FLOAT
    for node in list(model.graph):
        _widen_constant(node)
        for value in node.outputs:
            if types[value] in HALVES:
                treat(model.graph, value, types[value])
    return ir.to_proto(model)


def _widen_constant(node: ir.Node) -> None:
    value = node.attributes.get("value")
    if node.op_type in ("Constant", "ConstantOfShape") and value is not None and value.as_tensor().dtype in HALVES:
        wide = value.as_tensor().numpy().astype(np.float32)
        node.attributes["value"] = ir.AttrTensor("value", ir.Tensor(wide))


def _widen(graph: ir.Graph, value: ir.Value, half: ir.DataType) -> None:
    """Let a cast to a half type give float32, as every other node does by its inputs."""
    node = value.producer()
    assert node is not None
    value.type = ir.TensorType(FLOAT)
    if node.op_type == "Cast":
        node.attributes["to"] = ir.AttrInt64("to", FLOAT)


def _round(graph: ir.Graph, value: ir.Value, half: ir.DataType) -> None:
    """Node -> half -> float32; the last value takes the name and the users."""
    node, name = value.producer(), value.name
    assert node is not None
    wide = ir.Value(name=name, shape=value.shape, type=ir.TensorType(FLOAT))
    value.replace_all_uses_with(wide, replace_graph_outputs=True)
    if node.op_type == "Cast":
        value.name = f"{name}_narrow"
        narrow, last = value, node
    else:
        value.name, value.type = f"{name}{EXACT}", ir.TensorType(FLOAT)
        narrow = ir.Value(name=f"{name}_narrow", shape=value.shape, type=ir.TensorType(half))
        last = ir.node("Cast", [value], {"to": half}, outputs=[narrow], name=f"{node.name}/round_{name}")
        graph.insert_after(node, last)
    graph.insert_after(last, ir.node("Cast", [narrow], {"to": FLOAT}, outputs=[wide], name=f"{node.name}/widen_{name}"))
