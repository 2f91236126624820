"""Element types of a node's outputs, from its operator's schema and the types of its inputs."""

from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir
from onnx.defs import OpSchema

from condinst_deploy.errors import EngineError

Types = Mapping[ir.Value, ir.DataType]

FLOAT = ir.DataType.FLOAT
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def schema_of(node: ir.Node, opset: int) -> OpSchema:
    """The operator's schema.

    Raises:
        EngineError: the operator is not one of ONNX.
    """
    try:
        return onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError as e:
        raise EngineError(
            f"node {node.name} is {node.domain}::{node.op_type}, which is not an operator of ONNX opset {opset};"
            " export the model again with condinst-export"
        ) from e


def type_variable(schema: OpSchema, i: int) -> str:
    """Name of the type variable, or the type, of input `i`."""
    return schema.inputs[min(i, len(schema.inputs) - 1)].type_str


def allowed(schema: OpSchema) -> dict[str, set[str]]:
    """Type variable -> types that it may stand for, as `tensor(float)`."""
    return {entry.type_param_str: set(entry.allowed_type_strs) for entry in schema.type_constraints}


def output_types(node: ir.Node, schema: OpSchema, types: Types) -> list[ir.DataType]:
    """Types of the outputs, in order.

    Raises:
        EngineError: the schema does not say.
    """
    explicit = _explicit(node)
    if explicit is not None:
        return [explicit]
    bound = _bound(node, schema, types)
    for variable, choices in allowed(schema).items():
        if len(choices) == 1:
            bound.setdefault(variable, _named(next(iter(choices))))
    found = []
    for i in range(len(node.outputs)):
        name = schema.outputs[min(i, len(schema.outputs) - 1)].type_str
        kind = bound.get(name) or (_named(name) if name.startswith("tensor(") else None)
        if kind is None:
            raise EngineError(f"node {node.name} ({node.op_type}): the type of output {i} is unknown")
        found.append(kind)
    return found


def node_names(model: ir.Model) -> Iterator[str]:
    """Names of all nodes: of the graph, of its functions, and inside loops."""
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        yield from (node.name or "" for node in graph.all_nodes())


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The graphs inside a node: a loop's body, a condition's branches."""
    return [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]


def control_flow_types(node: ir.Node) -> list[ir.DataType]:
    """Types of a control-flow node's outputs, from the declared outputs of its first body.

    Raises:
        EngineError: the body has fewer outputs than the node, or outputs without types.
    """
    declared = bodies(node)[0].outputs
    own = declared[max(0, len(declared) - len(node.outputs)) :]  # a loop's condition is no output of the node
    found = [value.dtype for value in own if value.dtype is not None]
    if len(found) != len(node.outputs):
        raise EngineError(
            f"node {node.name} ({node.op_type}) has {len(node.outputs)} outputs, and a body with {len(found)} outputs"
            " of known types; expected as many: export the model again with condinst-export"
        )
    return found


def _declared(node: ir.Node) -> list[ir.DataType]:
    """Types of a plugin's outputs as the graph declares them; there is no schema for them."""
    found = [value.dtype for value in node.outputs if value.dtype is not None]
    if len(found) != len(node.outputs):
        raise EngineError(f"node {node.name} ({node.op_type}) is a plugin whose outputs have no types")
    return found


def value_types(model: ir.Model) -> dict[ir.Value, ir.DataType]:
    """Types of all values of a graph whose functions are inlined; what stands inside loops is left out.

    Raises:
        EngineError: an input, a weight or an operator is of no known type.
    """
    types: dict[ir.Value, ir.DataType] = {}
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        if value.dtype is None:
            raise EngineError(f"{value.name} has no type; export the model again with condinst-export")
        types[value] = value.dtype
    for node in model.graph:
        opset = model.opset_imports.get(node.domain, 0)
        if bodies(node):
            found = control_flow_types(node)
        elif "plugin_namespace" in node.attributes:
            found = _declared(node)
        else:
            found = output_types(node, schema_of(node, opset), types)
        types.update(zip(node.outputs, found, strict=True))
    return types


def _bound(node: ir.Node, schema: OpSchema, types: Types) -> dict[str, ir.DataType]:
    inputs: Sequence[ir.Value | None] = node.inputs
    return {type_variable(schema, i): types[value] for i, value in enumerate(inputs) if value is not None}


def _explicit(node: ir.Node) -> ir.DataType | None:
    """The type that an attribute names, for the operators that have one."""
    if node.op_type == "Cast":
        return ir.DataType(node.attributes["to"].as_int())
    if node.op_type == "Constant":
        return _constant_type(node)
    if node.op_type == "ConstantOfShape":
        value = node.attributes.get("value")
        return ir.DataType.FLOAT if value is None else value.as_tensor().dtype
    return None


def _constant_type(node: ir.Node) -> ir.DataType:
    (attribute,) = node.attributes.values()
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor().dtype
    floats = {ir.AttributeType.FLOAT, ir.AttributeType.FLOATS}
    return ir.DataType.FLOAT if attribute.type in floats else ir.DataType.INT64


def _named(text: str) -> ir.DataType:
    """`tensor(int64)` -> INT64."""
    name = text.removeprefix("tensor(").removesuffix(")")
    return ir.DataType[name.upper()]
