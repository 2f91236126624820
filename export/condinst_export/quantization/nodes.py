"""Parts of the two Q/DQ passes: constants of a graph, and a pair of nodes behind a tensor."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir


def registered(graph: ir.Graph, tensor: ir.Tensor[Any]) -> ir.Value:
    """A constant of a graph, named as its tensor."""
    value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def dequantized_twin(value: ir.Value) -> ir.Value:
    """The tensor that readers of `value` get in its place; `insert_pair` makes it."""
    return ir.Value(name=f"{value.name}_dequantized", shape=value.shape, type=value.type)


def insert_pair(
    graph: ir.Graph, value: ir.Value, twin: ir.Value, parameters: Sequence[ir.Value], codes: str, kind: ir.DataType
) -> None:
    """Write Q and DQ behind the node that makes a tensor.

    Args:
        graph: that holds the node.
        value: the tensor.
        twin: of `dequantized_twin`; its readers have it already.
        parameters: scale and zero point.
        codes: what the type of the codes is called in names.
        kind: that type.
    """
    producer = value.producer()
    assert producer is not None
    narrow = ir.Value(name=f"{value.name}_{codes}", shape=value.shape, type=ir.TensorType(kind))
    quantize = ir.node("QuantizeLinear", [value, *parameters], outputs=[narrow], name=f"{producer.name}/QuantizeLinear")
    dequantize = ir.node(
        "DequantizeLinear", [narrow, *parameters], outputs=[twin], name=f"{producer.name}/DequantizeLinear"
    )
    graph.insert_after(producer, [quantize, dequantize])
