"""Checks of an ONNX file from anywhere: its text, its graph, the types of its inputs and outputs, its numbers."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from condinst_deploy.errors import ArtifactError
from condinst_deploy.shown_text import first_line, shown, shown_value

BOUND_READERS = frozenset({"Cast", "Less"})
"""Operators that may read the constant infinity: exported graphs find finite numbers by `x < inf`."""

FLOATS = frozenset(
    number
    for name, number in onnx.TensorProto.DataType.items()
    if name.startswith(("FLOAT", "BFLOAT16", "DOUBLE")) and not name.startswith("FLOAT4")  # FLOAT4 has no NaN
)


def check_graph(proto: onnx.ModelProto, path: Path) -> None:
    """Check a graph before anything is computed from it.

    Raises:
        ArtifactError: its text is not UTF-8, it is no valid graph of tensors, or it holds weights that are not finite.
    """
    messages = list(_messages(proto))
    for place, text in _texts(messages):
        if not isinstance(text, str):  # protobuf hands out what it cannot decode
            raise ArtifactError(
                f"{path}: {place} is {shown_value(text)}; expected text in UTF-8: export the model again"
            )
    try:
        ir.from_proto(proto)
        if not _has_plugins(proto):  # plugins are no operators of ONNX
            # cycles, names that nothing makes, functions that call themselves
            onnx.checker.check_model(proto)
        for value in (*proto.graph.input, *proto.graph.output):
            _check_tensor(value)
        broken = next(_not_finite([message for _, message in messages]), None)
    except Exception as e:  # both raise whatever their parts raise
        causes = first_line(e.__cause__ or e)
        raise ArtifactError(f"{path} is no valid ONNX graph ({shown(causes, 300)}): export the model again") from e
    if broken is not None:
        raise ArtifactError(
            f"{path}: the constant {shown(broken, 100)} holds NaN or infinity; expected finite weights:"
            " check the checkpoint and export the model again"
        )


def _texts(messages: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, str | bytes]]:
    """Every text in these messages, with its place; bytes where it is not UTF-8."""
    for place, message in messages:
        for field, value in message.ListFields():
            if field.type == field.TYPE_STRING:
                yield from ((f"{place}.{field.name}", text) for text in _parts(value))


def _not_finite(messages: Sequence[Any]) -> Iterator[str]:
    """Names of initializers and attributes that hold NaN, or infinity that is more than the bound of a comparison."""
    nodes = [message for message in messages if isinstance(message, onnx.NodeProto)]
    others = {name for node in nodes if node.op_type not in BOUND_READERS for name in node.input}
    for message in messages:
        if isinstance(message, onnx.GraphProto):
            for tensor in (*message.initializer, *(sparse.values for sparse in message.sparse_initializer)):
                if not _is_finite(tensor, tensor.name not in others):
                    yield tensor.name
    for node in nodes:
        is_bound = node.op_type == "Constant" and others.isdisjoint(node.output)
        for attribute in node.attribute:
            tensors = (attribute.t, *attribute.tensors)
            numbers = np.array([attribute.f, *attribute.floats], dtype=np.float32)
            if not (np.isfinite(numbers).all() and all(_is_finite(tensor, is_bound) for tensor in tensors)):
                yield f"{attribute.name} of the node {node.name or node.op_type}"


def _is_finite(tensor: onnx.TensorProto, is_bound: bool) -> bool:
    """Return True if all numbers are finite, or if the tensor is one infinity and is used as a bound."""
    if tensor.data_type not in FLOATS:
        return True
    values = numpy_helper.to_array(tensor)
    if values.dtype.itemsize < 4:
        values = values.astype(np.float32)
    return bool(np.isfinite(values).all() or (is_bound and values.size == 1 and values.item() == np.inf))


def _messages(message: Any, place: str = "model") -> Iterator[tuple[str, Any]]:
    """The message and all inside it, each with its place in the file."""
    yield place, message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in _parts(value):
                yield from _messages(part, f"{place}.{field.name}")


def _parts(value: Any) -> Iterable[Any]:
    """The values of a field, which has one or many."""
    return (value,) if isinstance(value, str | bytes) or hasattr(value, "ListFields") else value


def _check_tensor(value: onnx.ValueInfoProto) -> None:
    """Check that an input or output is a tensor: no sequence, no optional value, and of a type that NumPy has."""
    try:
        ir.DataType(value.type.tensor_type.elem_type).numpy()
    except (TypeError, ValueError):
        kind = value.type.WhichOneof("value") or "of no type"
        raise TypeError(f"{value.name} is {kind.replace('_type', '')}; expected a tensor of numbers") from None


def _has_plugins(proto: onnx.ModelProto) -> bool:
    return any(attribute.name == "plugin_namespace" for node in proto.graph.node for attribute in node.attribute)
