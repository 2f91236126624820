"""Type and zero point of the Q/DQ nodes in a graph of any tool."""

import numpy as np
import onnx_ir as ir
from onnx_ir.convenience import get_const_tensor

from condinst_engines.quantization.insert import QDQ

ZERO_POINT = 2
"""Index among a node's inputs."""


def codes_type(node: ir.Node) -> ir.DataType | None:
    """The type of the codes that a Q/DQ node writes or reads.

    The zero point has it. Without one, QuantizeLinear has an attribute (else it writes uint8), and DequantizeLinear
    takes what it gets.

    Args:
        node: QuantizeLinear or DequantizeLinear.

    Returns:
        The type; None if the graph does not declare it.
    """
    zero_point = _input(node, ZERO_POINT)
    if zero_point is not None:
        return _type_of(zero_point)
    if node.op_type == "QuantizeLinear":
        asked = node.attributes.get("output_dtype")
        return ir.DataType(asked.as_int()) if asked is not None and asked.as_int() else ir.DataType.UINT8
    codes = _input(node, 0)
    return None if codes is None else _type_of(codes)


def has_constant_zero_point(node: ir.Node) -> bool:
    """Return whether the zero point of a Q/DQ node is known before a run; one that is left out is 0."""
    zero_point = _input(node, ZERO_POINT)
    return zero_point is None or get_const_tensor(zero_point) is not None


def is_symmetric(node: ir.Node) -> bool:
    """Return whether the zero point of a Q/DQ node is a constant of 0, or left out."""
    zero_point = _input(node, ZERO_POINT)
    if zero_point is None:
        return True
    tensor = get_const_tensor(zero_point)
    return tensor is not None and not np.any(tensor.numpy())


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if len(node.inputs) > index else None


def _type_of(value: ir.Value) -> ir.DataType | None:
    tensor, producer = get_const_tensor(value), value.producer()
    if tensor is not None:
        return tensor.dtype
    if producer is not None and producer.op_type in QDQ:
        return codes_type(producer)
    return value.dtype
