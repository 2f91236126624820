"""Names of the exported nodes: the module that a node comes from, and its operator.

`backbone.layer1.0.conv2/Conv`, `candidates.levels.p3/TopK`, `instances/GatherElements_2`. They are an interface:
precision policies match them, engines' layers carry them, and a comparison of two files prints them.
"""

import ast
from collections import Counter

import onnx

SCOPES = "pkg.torch.onnx.name_scopes"
"""Entry of a node's metadata in which PyTorch's exporter lists the modules around it, outermost first."""

TOP = "instances"
"""Scope of nodes outside all modules: selection, gathering, outputs."""

WEIGHT = ".weight"


def name_nodes(graph: onnx.GraphProto) -> None:
    """Name every node `<module>/<operator>`, and the second of a name `<module>/<operator>_2`."""
    seen: Counter[str] = Counter()
    for node in graph.node:
        name = f"{_scope(node)}/{node.op_type}"
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _scope(node: onnx.NodeProto) -> str:
    # a convolution with a folded norm has the norm's scope; its weight's name gives its own
    if node.op_type == "Conv" and node.input[1].endswith(WEIGHT):
        return str(node.input[1]).removeprefix("model.").removesuffix(WEIGHT)
    listed = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    scopes: list[str] = [scope for scope in ast.literal_eval(listed)[:-1] if scope and not scope.startswith("_")]
    return str(scopes[-1]).removeprefix("model.") if scopes else TOP
