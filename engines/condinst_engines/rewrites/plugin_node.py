"""A node that TensorRT's parser takes for a Quickly Deployable Plugin."""

from typing import Any

import onnx_graphsurgeon as gs

from condinst_deploy.contract.onnx_names import DOMAIN
from condinst_engines.plugins.names import VERSION


def make_plugin(node: gs.Node, attributes: dict[str, Any]) -> None:
    """Turn a node into a plugin node of its name; the kernel inside the engine is the only implementation."""
    node.attrs.clear()
    node.attrs.update(plugin_namespace=DOMAIN, plugin_version=VERSION, aot=1, **attributes)
