"""`condinst.DynamicMaskHead(feats, params, points, soi)`, a function -> the plugin of that name."""

import numpy as np
import onnx_graphsurgeon as gs

from condinst_deploy.contract.onnx_names import DYNAMIC_MASK_HEAD
from condinst_deploy.kernels.mask_head import MOST_CHANNELS, MOST_HIDDEN
from condinst_deploy.model.config import hidden_width
from condinst_engines.rewrites.plugin_node import make_plugin

OPERATION = DYNAMIC_MASK_HEAD


def refusal(node: gs.Node) -> str | None:
    """Return why the plugin cannot replace this node; None if it can."""
    feats, params, points, soi = node.inputs
    if feats.dtype != params.dtype:
        return f"features are {feats.dtype} and parameters {params.dtype}; the kernel takes one type"
    if {points.dtype, soi.dtype} != {np.dtype(np.float32)}:
        return f"points are {points.dtype} and sizes {soi.dtype}; the kernel takes float32 coordinates"
    if not isinstance(feats.shape[1], int) or not isinstance(params.shape[2], int):
        return "the number of channels or of parameters is not fixed"
    hidden = hidden_width(feats.shape[1], params.shape[2])
    if hidden is None:
        return f"{params.shape[2]} parameters do not make three layers over {feats.shape[1]} channels"
    if feats.shape[1] > MOST_CHANNELS or hidden > MOST_HIDDEN:
        return (
            f"{feats.shape[1]} channels and {hidden} hidden ones; the kernel has room for"
            f" {MOST_CHANNELS} and {MOST_HIDDEN}"
        )
    return None


def rewrite(node: gs.Node) -> None:
    """Make it a plugin node."""
    channels = node.inputs[0].shape[1]
    make_plugin(node, {"channels": [channels], "hidden": [hidden_width(channels, node.inputs[1].shape[2])]})
