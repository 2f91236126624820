"""Both rewrites over a graph: which nodes became plugins, and why others did not."""

from collections.abc import Mapping
from typing import NamedTuple

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from condinst_deploy.contract.onnx_names import DOMAIN
from condinst_engines.plugins.names import VERSION


class Rewritten(NamedTuple):
    """A graph with plugin nodes."""

    proto: onnx.ModelProto
    plugins: tuple[str, ...]  # condinst::Name version, one a node
    refused: tuple[str, ...]  # node and reason: its portable body stays


def with_plugins(proto: onnx.ModelProto, kept: Mapping[str, str] | None = None) -> Rewritten:
    """Put the plugins in the places of the two special operations; functions that are not called any more go.

    Args:
        proto: a graph with functions, its precision written in.
        kept: operations that keep their portable bodies, and why.
    """
    from condinst_engines.rewrites import mask_head, select  # they ask the kernels for their limits: Triton is needed

    G_LOGGER.severity = G_LOGGER.ERROR  # it warns of every bfloat16 tensor, which it carries unread
    graph = gs.import_onnx(proto)
    plugins, refused = [], []
    for node in graph.nodes:
        for rule in (select, mask_head):
            if (node.domain, node.op) != (DOMAIN, rule.OPERATION):
                continue
            reason = (kept or {}).get(node.op) or rule.refusal(node)
            if reason is None:
                rule.rewrite(node)
                plugins.append(f"{DOMAIN}::{node.op} {VERSION}")
            else:
                refused.append(f"{node.name}: {reason}")
    replaced = {name.split("::")[1].split()[0] for name in plugins}
    graph.functions = [function for function in graph.functions if function.name not in replaced]
    done = gs.export_onnx(graph)
    done.metadata_props.extend(proto.metadata_props)
    return Rewritten(done, tuple(plugins), tuple(refused))
