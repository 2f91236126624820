"""Mixed precision, written into the graph: a strongly typed builder runs every node in the graph's type.

Casts are put where the policy's sides meet; weights are converted and checked; inputs and outputs keep the types of
the contract. The bodies of the two special operations are converted, too: the file can be inlined or rewritten later.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from condinst_deploy.contract import MANIFEST_KEY, ModelManifest
from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import ConfigError, EngineError
from condinst_engines.node_types import (
    FLOAT,
    HALVES,
    allowed,
    bodies,
    control_flow_types,
    node_names,
    output_types,
    schema_of,
    type_variable,
)
from condinst_engines.norm_scale import apply_scales
from condinst_engines.precision_policy import WORDS_SHOWN, Policy
from condinst_engines.quantization.insert import QDQ, set_opset

TYPES: dict[Precision, ir.DataType] = {
    "float32": FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
}
_HALF_NUMBERS = {int(kind) for kind in HALVES}
NAMES = {kind: name for name, kind in TYPES.items()}

KEEPS_FLOAT16 = "mask_logits"
"""The one output that the contract allows in float16; what reads it converts. It halves the largest transfer."""


Quantise = Callable[[ir.Model], None]
"""Writes Q/DQ into a float32 graph, in place."""


def converted(
    proto: onnx.ModelProto, precision: Precision, policy: Policy | None = None, quantise: Quantise | None = None
) -> onnx.ModelProto:
    """Write a precision, and the policy's scales, into a graph.

    Args:
        proto: a float32 file of condinst-export; it is left as it is.
        precision: of the nodes that the policy calls half; "float32" gives a copy.
        policy: rules; None: the toolkit's own.
        quantise: called behind the scales and before anything is half.

    Raises:
        ConfigError: a pattern of the policy matches no node, or a node that cannot be converted or scaled.
        EngineError: the graph has half precision already, a node that no rule of the policy knows, or a weight
            that has no value in that precision.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    model = ir.from_proto(copy)
    policy = policy or Policy()
    policy.check(node_names(model))
    _check_full(model)
    if precision == "float32":
        return copy
    policy.check_known(node.name or "" for node in _all_nodes(model) if node.op_identifier() not in model.functions)
    apply_scales(model, policy)
    if any(node.op_type in QDQ for node in model.graph):  # somebody else's; half scales came with a later opset
        set_opset(model)
    if quantise is not None:
        quantise(model)
    _Conversion(model, precision, policy).run()
    done = ir.to_proto(model)
    _set_manifest_precision(done, precision)
    return done


def _all_nodes(model: ir.Model) -> Iterator[ir.Node]:
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        yield from graph.all_nodes()


def _check_full(model: ir.Model) -> None:
    """Half values come from inputs, weights, constants and casts alone; every other operator hands types on.

    Raises:
        EngineError: there is one; the graph was converted before.
    """
    values = (*model.graph.inputs, *model.graph.initializers.values())
    odd = [value.name or "?" for value in values if value.dtype in HALVES]
    odd += [node.name or "?" for node in _all_nodes(model) if not _HALF_NUMBERS.isdisjoint(_types_named(node))]
    if odd:
        raise EngineError(
            f"the graph has half precision already ({', '.join(odd[:WORDS_SHOWN])});"
            " give the file that condinst-export wrote"
        )


def _types_named(node: ir.Node) -> Iterator[int]:
    """Element types that a node's attributes name."""
    for name, attribute in node.attributes.items():
        if attribute.type == ir.AttributeType.TENSOR:
            yield int(attribute.as_tensor().dtype)
        elif name in ("to", "dtype") and attribute.type == ir.AttributeType.INT:
            yield attribute.as_int()


def _set_manifest_precision(proto: onnx.ModelProto, precision: Precision) -> None:
    for entry in proto.metadata_props:
        if entry.key == MANIFEST_KEY:
            manifest = ModelManifest.from_json(entry.value)
            entry.value = replace(manifest, precision=precision).to_json()


@dataclass
class _Conversion:
    """One run of the conversion; `types` grows as the graph is walked in its order."""

    model: ir.Model
    precision: Precision
    policy: Policy
    types: dict[ir.Value, ir.DataType] = field(default_factory=dict)
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)

    def run(self) -> None:
        graph = self.model.graph
        for value in (*graph.inputs, *graph.initializers.values()):
            if value.dtype is None:
                raise EngineError(f"{value.name} has no type; export the model again with condinst-export")
            self.types[value] = value.dtype
        for node in list(graph):
            self._convert(node)
        self._restore_outputs(graph)
        self._drop_unused(graph)
        for node in graph:
            for value in node.outputs:
                value.type = ir.TensorType(self.types[value])

    def _convert(self, node: ir.Node) -> None:
        function = self.model.functions.get(node.op_identifier())
        if function is not None:
            self._convert_call(node, function)
        elif bodies(node):
            self._keep_control_flow(node)
        else:
            self._convert_operator(node)

    def _convert_call(self, node: ir.Node, function: ir.Function) -> None:
        """A function's formals have the types of what is passed; every function is called once."""
        if any(formal in self.types for formal in function.inputs):
            raise EngineError(f"{function.name} is called twice; this pass types a function for one call")
        for formal, value in zip(function.inputs, node.inputs, strict=True):
            assert value is not None
            self.types[formal] = self.types[value]
        for inner in list(function):
            self._convert(inner)
        for formal, value in zip(function.outputs, node.outputs, strict=True):
            self.types[value] = self.types[formal]

    def _keep_control_flow(self, node: ir.Node) -> None:
        """Loops stay in float32 as a whole: their bodies declare their own types."""
        for inner in (inner for body in bodies(node) for inner in body):
            if self._kind(inner) != FLOAT:
                raise ConfigError(f"node {inner.name} is in a loop, and loops stay in float32")
            self._widen_inputs(inner)
        self._widen_inputs(node)
        self.types.update(zip(node.outputs, control_flow_types(node), strict=True))

    def _convert_operator(self, node: ir.Node) -> None:
        schema = schema_of(node, self._opset(node))
        kind = self._kind(node)
        if kind != FLOAT:
            self._retype_attributes(node, kind)
        choices = allowed(schema)
        wanted = {}
        for i, value in enumerate(node.inputs):
            if value is None or self.types[value] not in (FLOAT, *HALVES):
                continue
            # bfloat16 came to some schemas only later; builders take it wherever float16 may stand
            may_be_half = "tensor(float16)" in choices.get(type_variable(schema, i), ())
            wanted[i] = kind if may_be_half else FLOAT
        self._feed(node, wanted)
        self.types.update(zip(node.outputs, output_types(node, schema, self.types), strict=True))

    def _kind(self, node: ir.Node) -> ir.DataType:
        """The type that the policy gives a node."""
        return TYPES[self.policy.rule_for(node.name or "").type_for(self.precision)]

    def _opset(self, node: ir.Node) -> int:
        version = self.model.opset_imports.get(node.domain)
        if version is None:
            raise EngineError(f"node {node.name} is of the domain {node.domain!r}, which the file does not import")
        return version

    def _retype_attributes(self, node: ir.Node, kind: ir.DataType) -> None:
        """Let constants and casts of a half node give halves."""
        if node.op_type == "Cast" and node.attributes["to"].as_int() == FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", kind)
        value = node.attributes.get("value")
        if node.op_type in ("Constant", "ConstantOfShape") and value and value.as_tensor().dtype == FLOAT:
            tensor = self._as_half(value.as_tensor(), node.name or "", kind)
            node.attributes["value"] = ir.AttrTensor("value", tensor)

    def _widen_inputs(self, node: ir.Node) -> None:
        halves = [i for i, v in enumerate(node.inputs) if v is not None and self.types.get(v) in HALVES]
        self._feed(node, dict.fromkeys(halves, FLOAT))

    def _feed(self, node: ir.Node, wanted: dict[int, ir.DataType]) -> None:
        for i, kind in wanted.items():
            value = node.inputs[i]
            if value is not None and self.types[value] != kind:
                node.replace_input_with(i, self._cast(value, kind))

    def _cast(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """`value` in another type: a converted weight, or one cast node that all its users share.

        A half value's other types are made from the value itself, so a value is never rounded twice on its way.
        """
        if (value, kind) not in self.casts:
            made = self._weight(value, kind) if value.is_initializer() else self._cast_node(value, kind)
            self.types[made] = kind
            self.casts[value, kind] = made
        return self.casts[value, kind]

    def _weight(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        assert value.const_value is not None
        assert value.graph is not None
        tensor = self._as_half(value.const_value, value.name or "", kind)
        made = ir.Value(name=tensor.name, shape=value.shape, type=ir.TensorType(kind), const_value=tensor)
        value.graph.register_initializer(made)
        return made

    def _as_half(self, tensor: ir.TensorProtocol, owner: str, kind: ir.DataType) -> ir.TensorProtocol:
        values = tensor.numpy()
        with np.errstate(over="ignore"):
            half = values.astype(kind.numpy())
        if not np.isfinite(half.astype(np.float32)).all():
            largest = float(np.abs(values).max())
            raise EngineError(
                f"{owner} reaches {largest:g}, which {NAMES[kind]} cannot hold; build with --fp32 or --bf16,"
                " or keep the node that uses it in float32 (fp32 under [policy] in a recipe)"
            )
        return ir.Tensor(half, name=f"{owner}_{NAMES[kind]}")

    def _cast_node(self, value: ir.Value, kind: ir.DataType) -> ir.Value:
        """A cast right behind the producer, or at the head of the graph for an input."""
        name, suffix, index = value.name, NAMES[kind], value.index() or 0
        producer = value.producer()
        owner = producer.name if producer is not None else name
        made = ir.Value(name=f"{name}_{suffix}", shape=value.shape)
        unique = f"{owner}/Cast_{suffix}" + (f"_{index + 1}" if index else "")
        cast = ir.node("Cast", [value], {"to": kind}, outputs=[made], name=unique)
        if producer is not None:
            assert producer.graph is not None
            producer.graph.insert_after(producer, cast)
        else:
            body = self._owner_of_input(value)
            body.insert_before(next(iter(body)), cast)
        return made

    def _owner_of_input(self, value: ir.Value) -> ir.Graph | ir.Function:
        graphs: list[ir.Graph | ir.Function] = [self.model.graph, *self.model.functions.values()]
        return next(graph for graph in graphs if value in graph.inputs)

    def _restore_outputs(self, graph: ir.Graph) -> None:
        """Cast outputs back to what the contract says."""
        for i, value in enumerate(graph.outputs):
            kind = self.types[value]
            fine = kind not in HALVES or (value.name == KEEPS_FLOAT16 and kind == ir.DataType.FLOAT16)
            if not fine:
                name = value.name
                made = self._cast(value, FLOAT)
                value.name, made.name = f"{name}_{NAMES[kind]}", name
                graph.outputs[i] = made

    def _drop_unused(self, graph: ir.Graph) -> None:
        """Remove weights whose users all took converted ones; the first of these inherits the name."""
        for (value, _), made in self.casts.items():
            if value in self.types and value.is_initializer() and not value.uses():
                name: Any = value.name
                graph.initializers.pop(name)
                made.name = name
                del self.types[value]
