"""Description of a checkpoint, an exported file or an engine, as plain values."""

from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from condinst_deploy.contract import MANIFEST_KEY, ModelManifest
from condinst_deploy.contract.artifacts import CHECKPOINT, ENGINE, ONNX, model_kind
from condinst_deploy.contract.engine_manifest import EngineManifest, read_engine
from condinst_deploy.errors import ArtifactError, BackendError
from condinst_engines.builder_library import load_builder_library
from condinst_engines.engine_inspector import found_in_engine, layers_of
from condinst_engines.node_types import node_names
from condinst_engines.onnx_input import load_onnx, manifest_of


def inspect_file(path: Path) -> dict[str, Any]:
    """Describe a file.

    Returns:
        `kind` and `path`, and what is known of a file of that kind.

    Raises:
        ArtifactError, CheckpointError: it cannot be read.
        ConfigError: it is of no known kind.
    """
    kind = model_kind(path)
    describe = {CHECKPOINT: _checkpoint, ONNX: _onnx, ENGINE: _engine}[kind]
    return describe(path)


def _checkpoint(path: Path) -> dict[str, Any]:
    from condinst_deploy.model.checkpoints import load_model  # takes PyTorch's seconds

    loaded = load_model(path)
    return {
        "kind": "checkpoint",
        "path": str(path.absolute()),
        "note": loaded.note,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "precision": "float32",
        "model": asdict(loaded.model.config),
        "manifest": asdict(loaded.manifest),
    }


def _onnx(path: Path) -> dict[str, Any]:
    proto = load_onnx(path)
    manifest = _manifest_if_any(proto, path)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
    weights: Counter[str] = Counter()
    for initializer in proto.graph.initializer:
        weights[_dtype(initializer.data_type)] += 1
    return {
        "kind": "ONNX file",
        "path": str(path.absolute()),
        "opsets": opsets,
        "producer": f"{proto.producer_name} {proto.producer_version}",
        "precision": manifest.precision if manifest else None,
        "weights": dict(weights),
        "inputs": [_tensor(value) for value in proto.graph.input],
        "outputs": [_tensor(value) for value in proto.graph.output],
        "operators": dict(Counter(node.op_type for node in proto.graph.node).most_common()),
        "functions": [f"{function.domain}::{function.name}" for function in proto.functions],
        "manifest": asdict(manifest) if manifest else None,
        "nodes": list(node_names(ir.from_proto(proto))),
    }


def _manifest_if_any(proto: onnx.ModelProto, path: Path) -> ModelManifest | None:
    """None for a file of another tool; a manifest that cannot be used is an error."""
    ours = any(entry.key == MANIFEST_KEY for entry in proto.metadata_props)
    return manifest_of(proto, path) if ours else None


def _dtype(kind: int) -> str:
    return str(ir.DataType(kind).numpy().name)


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
    return {"name": value.name, "dtype": _dtype(kind.elem_type), "shape": shape}


def _engine(path: Path) -> dict[str, Any]:
    plan, manifest = read_engine(path)
    layers, remark = _layers(plan, manifest)
    found = found_in_engine(layers)
    if found.layers:  # the engine's own, which says more than the network that it was built from
        manifest = replace(manifest, found=found)
    return {
        "kind": "TensorRT engine",
        "path": str(path.absolute()),
        "precision": manifest.precision,
        "engine": asdict(manifest),
        "layers": layers,
        "remark": remark,
    }


def _layers(plan: bytes, manifest: EngineManifest) -> tuple[list[dict[str, Any]], str]:
    """Layers of the engine itself, where this machine can load it; otherwise the reason why not."""
    try:
        return layers_of(plan, load_builder_library(manifest.flavour), manifest), ""
    except (ArtifactError, BackendError) as e:
        return [], f"the engine itself was not loaded, and its layers are not listed: {e}"
