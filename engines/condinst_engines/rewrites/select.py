"""`condinst.SelectInstances(boxes, scores, labels)`, a function -> the plugin of that name."""

import onnx_graphsurgeon as gs

from condinst_deploy.contract.onnx_names import SELECT_INSTANCES
from condinst_deploy.kernels.select import MOST_CANDIDATES
from condinst_engines.rewrites.plugin_node import make_plugin

OPERATION = SELECT_INSTANCES


def refusal(node: gs.Node) -> str | None:
    """Return why the plugin cannot replace this node; None if it can."""
    kinds = tuple(str(value.dtype) for value in node.inputs)
    if kinds != ("float32", "float32", "int32"):
        return f"boxes, scores and labels are {', '.join(kinds)}; the kernel takes float32, float32, int32"
    candidates = node.inputs[1].shape[1]
    if not isinstance(candidates, int):
        return "the number of candidates is not fixed"
    if candidates > MOST_CANDIDATES:
        return f"{candidates} candidates; the kernel has room for {MOST_CANDIDATES}"
    return None


def rewrite(node: gs.Node) -> None:
    """Make it a plugin node."""
    attributes = node.attrs
    make_plugin(
        node,
        {
            "max_detections": [int(attributes["max_detections"])],
            "nms_iou": [float(attributes["nms_iou"])],
            "candidates": [node.inputs[1].shape[1]],
        },
    )
