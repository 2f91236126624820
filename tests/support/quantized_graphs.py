"""Recipes and scales of 8-bit graphs where accuracy does not matter."""

import onnx
import onnx.inliner
import onnx_ir as ir

from condinst_deploy.contract.precision import Precision
from condinst_engines.build_recipe import BuildRecipe, RtxSettings
from condinst_engines.precision_policy import Policy, Quantized
from condinst_engines.quantization.insert import (
    Scales,
    activations,
    chosen_convolutions,
)
from condinst_export.quantization.thresholds import Range

WIDE = Range(-8.0, 8.0)
"""A range for every tensor where accuracy does not matter."""


def recipe_for(kind: Quantized, sm: tuple[str, ...], precision: Precision = "float16", **policy: object) -> BuildRecipe:
    own = Policy(**policy)  # type: ignore[arg-type]
    return BuildRecipe(precision=precision, quantization=kind, rtx=RtxSettings(sm), policy=own)


def scales_for(proto: onnx.ModelProto, recipe: BuildRecipe) -> Scales:
    assert recipe.quantized is not None
    nodes = chosen_convolutions(ir.from_proto(proto), recipe.policy, recipe.precision, recipe.quantized)
    return Scales(recipe.quantized, dict.fromkeys(activations(nodes), WIDE))


def with_constant_zero_points(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a Constant node for the zero point of every Q/DQ."""
    graph = onnx.ModelProto()
    graph.CopyFrom(proto)
    names = {node.input[2] for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    moved = [entry for entry in graph.graph.initializer if entry.name in names]
    for entry in moved:
        constant = onnx.helper.make_node("Constant", [], [entry.name], value=entry, name=f"Constant_{entry.name}")
        graph.graph.node.insert(0, constant)
        graph.graph.initializer.remove(entry)
    return graph
