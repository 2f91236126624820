"""Exported files as this stage reads them."""

from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.convenience import get_const_tensor

from condinst_deploy.contract import MANIFEST_KEY, ModelManifest
from condinst_deploy.contract.artifacts import ONNX, check_there
from condinst_deploy.errors import ArtifactError
from condinst_engines.onnx_checks import check_graph
from condinst_engines.quantization.insert import QDQ


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file.

    Raises:
        ArtifactError: it is missing, is not one, or has weights that are not finite.
    """
    check_there(path, ONNX)
    try:
        proto = onnx.load(str(path))
    except OSError as e:
        raise ArtifactError(f"{path} cannot be read ({e.strerror or e})") from e
    except Exception as e:  # protobuf's errors come without types
        raise ArtifactError(f"{path} is truncated or not an ONNX file: export the model again") from e
    if not proto.graph.node:
        raise ArtifactError(f"{path} is empty or not an ONNX file: export the model again")
    check_graph(proto, path)
    return proto


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
