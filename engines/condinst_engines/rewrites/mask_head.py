"""`condinst.DynamicMaskHead(feats, params, points, soi)`, a function -> the plugin of that name."""

import numpy as np
import onnx_graphsurgeon as gs

from condinst_deploy.contract.onnx_names import DYNAMIC_MASK_HEAD
from condinst_deploy.kernels.mask_head import MOST_CHANNELS, WIDE
from condinst_engines.rewrites.plugin_node import make_plugin

OPERATION = DYNAMIC_MASK_HEAD


def refusal(node: gs.Node) -> str | None:
    """Why the plugin cannot take this node's place; None: it can."""
    feats, params, points, soi = node.inputs
    if feats.dtype != params.dtype:
        return f"features are {feats.dtype} and parameters {params.dtype}; the kernel takes one type"
    if {points.dtype, soi.dtype} != {np.dtype(np.float32)}:
        return f"points are {points.dtype} and sizes {soi.dtype}; the kernel takes float32 coordinates"
    if not isinstance(feats.shape[1], int) or not isinstance(params.shape[2], int):
        return "the number of channels or of parameters is not fixed"
    hidden = hidden_channels(feats.shape[1], params.shape[2])
    if hidden is None:
        return f"{params.shape[2]} parameters do not make three layers over {feats.shape[1]} channels"
    if feats.shape[1] > MOST_CHANNELS or hidden > WIDE.value:
        return (
            f"{feats.shape[1]} channels and {hidden} hidden ones; the kernel has room for"
            f" {MOST_CHANNELS} and {WIDE.value}"
        )
    return None


def rewrite(node: gs.Node) -> None:
    """Make it a plugin node."""
    channels = node.inputs[0].shape[1]
    make_plugin(node, {"channels": [channels], "hidden": [hidden_channels(channels, node.inputs[1].shape[2])]})


def hidden_channels(channels: int, parameters: int) -> int | None:
    """The hidden width H of a head with so many parameters: H (C + 2) + H H + H + H + H + 1."""
    widths = range(1, parameters)
    return next((h for h in widths if h * (channels + 2) + h * h + 3 * h + 1 == parameters), None)
