"""The parsed network: what the parser refuses, the tensors, and the types that the builder is bound to."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from condinst_deploy.contract.engine_manifest import TYPED_NETWORK, EngineTensor, FoundPrecision
from condinst_deploy.errors import EngineError
from condinst_deploy.shown_text import counted
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.builder_log import BuilderLog
from condinst_engines.node_types import value_types
from condinst_engines.precision_policy import WORDS_SHOWN

if TYPE_CHECKING:
    import tensorrt

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""TensorRT's names of types -> numpy's."""

IR_NAMES = {"FLOAT16": "HALF", "BFLOAT16": "BF16"}
FLOATING = ("float32", "float16", "bfloat16")


def parsed_network(
    library: BuilderLibrary, builder: "tensorrt.Builder", graph: bytes, log: BuilderLog
) -> "tensorrt.INetworkDefinition":
    """Parse a graph into a strongly typed network.

    Raises:
        EngineError: the parser refuses a node, or finds none.
    """
    trt = library.trt
    # 11 has only such networks and ignores the flag; 10 needs it
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser: tensorrt.OnnxParser = trt.OnnxParser(network, log.logger)
    if not parser.parse(graph):
        problems = [parser.get_error(i) for i in range(parser.num_errors)]
        lines = [f"node {p.node_name() or '?'} ({p.node_operator() or '?'}): {p.desc()}" for p in problems]
        raise EngineError("the parser refuses the graph: " + ("; ".join(lines) or log.reason))
    if network.num_layers == 0:
        raise EngineError("the parser finds no layers in the graph; is it a file of condinst-export?")
    return network


def tensors_of(network: "tensorrt.INetworkDefinition") -> tuple[EngineTensor, ...]:
    """Inputs and outputs, in order."""
    inputs = (network.get_input(i) for i in range(network.num_inputs))
    outputs = (network.get_output(i) for i in range(network.num_outputs))
    return (
        *(EngineTensor(t.name, "input", DTYPES[t.dtype.name], _shape(t)) for t in inputs),
        *(EngineTensor(t.name, "output", DTYPES[t.dtype.name], _shape(t)) for t in outputs),
    )


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(side) for side in tensor.shape)


def found_in_network(network: "tensorrt.INetworkDefinition") -> FoundPrecision:
    """Layers that compute with floating point, by the type of their first output."""
    counts = Counter(DTYPES.get(outputs[0].dtype.name, "other") for outputs in _layer_outputs(network) if outputs)
    return FoundPrecision(TYPED_NETWORK, {kind: counts[kind] for kind in FLOATING if counts[kind]})


def check_precision(found: FoundPrecision, precision: str, also: Collection[str] = ()) -> None:
    """Refuse a network without the requested precision.

    Args:
        found: layers by type.
        precision: of the engine.
        also: types that the policy gives single nodes.

    Raises:
        EngineError: no layer has it, or one has a half type that was not asked for.
    """
    if not found.is_as_asked(precision, also):
        layers = ", ".join(f"{count} in {kind}" for kind, count in found.layers.items()) or "none"
        raise EngineError(
            f"{precision} was asked for, and the layers by the {found.source} are: {layers}; no engine was written."
            " Export the model again with condinst-export, and see what the recipe keeps in float32"
        )


def check_types(network: "tensorrt.INetworkDefinition", graph: onnx.ModelProto) -> None:
    """Compare the type of every tensor that the parser kept with the type that the graph gives it.

    Raises:
        EngineError: a tensor has another type, or no half tensor of the graph was found in the network.
    """
    wanted = _half_tensors(graph)
    found = {tensor.name: tensor.dtype.name for outputs in _layer_outputs(network) for tensor in outputs}
    wrong = [f"{name} is {found[name]}" for name, kind in wanted.items() if found.get(name, kind) != kind]
    if wrong:
        raise EngineError(
            f"{counted(len(wrong), 'tensor')} did not get the precision that was asked for: "
            + ", ".join(wrong[:WORDS_SHOWN])
            + "; no engine was written"
        )
    if wanted and not wanted.keys() & found.keys():
        raise EngineError(
            "the network has none of the tensors that were to be of half precision; no engine was written"
        )


def _half_tensors(graph: onnx.ModelProto) -> Mapping[str, str]:
    """Tensors of half precision that the graph's nodes make, and TensorRT's name of their type."""
    types = value_types(ir.from_proto(graph))
    return {
        value.name or "": IR_NAMES[kind.name]
        for value, kind in types.items()
        if kind.name in IR_NAMES and value.producer() is not None
    }


def _layer_outputs(network: "tensorrt.INetworkDefinition") -> Iterator[list[Any]]:
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        yield [tensor for j in range(layer.num_outputs) if (tensor := layer.get_output(j)) is not None]
