"""Exported files as this stage reads them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper
from onnx_ir.convenience import get_const_tensor

from condinst_deploy.contract import MANIFEST_KEY, ModelManifest
from condinst_deploy.contract.artifacts import EXPORT_FOLDER, INT8_ONNX, ONNX
from condinst_deploy.errors import ArtifactError, ConfigError
from condinst_deploy.shown_text import first_line, shown, shown_value
from condinst_deploy.support.input_files import check_ordinary
from condinst_engines.quantization.insert import QDQ

BOUND_READERS = frozenset({"Cast", "Less"})
"""Operators that may read the constant infinity: exported graphs find finite numbers by `x < inf`."""

FLOATS = frozenset(
    number
    for name, number in onnx.TensorProto.DataType.items()
    if name.startswith(("FLOAT", "BFLOAT16", "DOUBLE")) and not name.startswith("FLOAT4")  # FLOAT4 has no NaN
)


def only_exported(folder: Path = EXPORT_FOLDER) -> Path:
    """The only ONNX file that was exported below the current directory; files for CPUs (.int8.onnx) do not count.

    Raises:
        ConfigError: there is none, or more than one.
    """
    found = sorted(path for path in folder.glob(f"*{ONNX}") if not path.name.endswith(INT8_ONNX))
    if not found:
        raise ConfigError(
            f"no ONNX file in {folder.absolute()}:"
            " run condinst-export --weights model.pth here, or name one with --onnx"
        )
    if len(found) > 1:
        raise ConfigError(f"{folder} holds {', '.join(p.name for p in found)}: name one with --onnx")
    return found[0]


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        ArtifactError: it is missing, is not one, or has weights that are not finite.
    """
    try:
        check_ordinary(path)
        proto = onnx.load(str(path))
    except FileNotFoundError as e:
        raise ArtifactError(f"no file at {path}: write one with condinst-export --weights model.pth") from e
    except OSError as e:
        raise ArtifactError(f"{path} cannot be read ({e.strerror or e})") from e
    except Exception as e:  # protobuf's errors come without types
        raise ArtifactError(f"{path} is truncated or not an ONNX file: export the model again") from e
    if not proto.graph.node:
        raise ArtifactError(f"{path} is empty or not an ONNX file: export the model again")
    _check_graph(proto, path)
    return proto


def _check_graph(proto: onnx.ModelProto, path: Path) -> None:
    for place, text in _texts(proto):
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
        broken = next(_not_finite(proto), None)
    except Exception as e:  # both raise whatever their parts raise
        causes = first_line(e.__cause__ or e)
        raise ArtifactError(f"{path} is no valid ONNX graph ({shown(causes, 300)}): export the model again") from e
    if broken is not None:
        raise ArtifactError(
            f"{path}: the constant {shown(broken, 100)} holds NaN or infinity; expected finite weights:"
            " check the checkpoint and export the model again"
        )


def _not_finite(proto: onnx.ModelProto) -> Iterator[str]:
    """Names of initializers and attributes that hold NaN, or infinity that is more than the bound of a comparison."""
    messages = list(_messages(proto))
    nodes = [message for message in messages if isinstance(message, onnx.NodeProto)]
    others = {name for node in nodes if node.op_type not in BOUND_READERS for name in node.input}
    for message in messages:
        if isinstance(message, onnx.GraphProto):
            for tensor in message.initializer:
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


def _messages(message: Any) -> Iterator[Any]:
    """The message and all inside it."""
    yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from _messages(part)


def _check_tensor(value: onnx.ValueInfoProto) -> None:
    """See that an input or output is a tensor: no sequence, no optional value, and of a type that NumPy has."""
    try:
        ir.DataType(value.type.tensor_type.elem_type).numpy()
    except (TypeError, ValueError):
        kind = value.type.WhichOneof("value") or "of no type"
        raise TypeError(f"{value.name} is {kind.replace('_type', '')}; expected a tensor of numbers") from None


def _has_plugins(proto: onnx.ModelProto) -> bool:
    return any(attribute.name == "plugin_namespace" for node in proto.graph.node for attribute in node.attribute)


def _texts(message: Any, place: str = "model") -> Iterator[tuple[str, str | bytes]]:
    """Every text of a protobuf message and of those inside it, with its place."""
    for field, value in message.ListFields():
        inside = f"{place}.{field.name}"
        if field.type == field.TYPE_STRING:
            yield from ((inside, text) for text in ((value,) if isinstance(value, str | bytes) else value))
        elif field.type == field.TYPE_MESSAGE:
            for part in (value,) if hasattr(value, "ListFields") else value:
                yield from _texts(part, inside)


def with_lifted_constants(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A graph in which convolutions, Q and DQ read initializers, as condinst-export writes them.

    Other tools leave Constant nodes, which quantisation and the policy would pass over.

    Args:
        proto: it is left as it is, and returned where there is nothing to lift.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    model = ir.from_proto(copy)
    readers = [node for node in model.graph if node.op_type in ("Conv", *QDQ)]
    read = dict.fromkeys(value for node in readers for value in node.inputs)
    lifted = [value for value in read if value is not None and value.producer() is not None and _is_lifted(value)]
    for value in lifted:
        tensor, node = get_const_tensor(value), value.producer()
        assert tensor is not None
        assert node is not None
        model.graph.remove(node)
        shape = ir.Shape(tensor.numpy().shape)
        made = ir.Value(name=value.name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        value.replace_all_uses_with(made)
        model.graph.register_initializer(made)
    return ir.to_proto(model) if lifted else proto


def _is_lifted(value: ir.Value) -> bool:
    return not value.is_graph_output() and get_const_tensor(value) is not None


def manifest_of(proto: onnx.ModelProto, path: Path) -> ModelManifest:
    """The manifest inside an exported file.

    Raises:
        ArtifactError: there is none, or it cannot be used.
    """
    entries = [entry.value for entry in proto.metadata_props if entry.key == MANIFEST_KEY]
    if not entries:
        raise ArtifactError(f"{path} is an ONNX file without this toolkit's manifest; write it with condinst-export")
    try:
        return ModelManifest.from_json(entries[0])
    except ArtifactError as e:
        raise ArtifactError(f"{path}: {e}") from e
