"""The largest magnitude of every half tensor of a graph, on images.

The graph of `rounding` runs in ONNX Runtime with two numbers a tensor as its only new outputs: the largest magnitude
before the rounding, and the sum of magnitudes, which is NaN as soon as one element is (a maximum may pass over it).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from condinst_deploy.contract import INPUTS, NetworkInputs
from condinst_deploy.errors import EngineError
from condinst_engines.node_types import HALVES, value_types
from condinst_engines.rounding import EXACT, rounded, widened
from condinst_export.graph_session import graph_session

PASSING = frozenset(
    ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Slice", "Split", "Gather", "GatherElements", "Identity")
)
"""Operators that only move elements of their first input: its magnitude bounds theirs."""

CASTS = re.compile(r"/Cast_(float16|bfloat16|float32)(_\d+)?$")
INLINED = re.compile(r"__\d+$")


@dataclass(frozen=True)
class HalfTensor:
    """One half tensor of a graph."""

    name: str
    kind: ir.DataType
    makers: tuple[str, ...]  # nodes that the policy can move: who makes it, and through inserted casts who made that
    readers: tuple[str, ...]  # and who reads it
    bound_by: str | None  # the tensor whose elements it moves; None: it is measured
    cast_from: str | None  # the floating tensor that a cast node makes it from


@dataclass(frozen=True)
class Magnitudes:
    """Magnitudes of all half tensors, over several images."""

    largest: Mapping[str, float]  # tensor -> over all images; infinite where one is not finite
    quietest: Mapping[str, float]  # tensor -> of the image where its largest magnitude is smallest, but not 0


def policy_name(node: ir.Node | None) -> str:
    """The name that a node of the inlined graph has in the policy."""
    return INLINED.sub("", (node.name or "") if node is not None else "")


def half_tensors(proto: onnx.ModelProto) -> list[HalfTensor]:
    """The half tensors that the nodes of a graph of mixed precision make, in its order."""
    model = ir.from_proto(proto)
    types = value_types(model)
    found: dict[ir.Value, HalfTensor] = {}
    for value, kind in types.items():
        node = value.producer()
        if kind not in HALVES or node is None or node.op_type in ("Constant", "ConstantOfShape"):
            continue
        source = node.inputs[0] if node.op_type in (*PASSING, "Cast") else None
        same = source in found and found[source].kind == kind and node.op_type != "Cast"
        floats = node.op_type == "Cast" and source is not None and types[source] in (ir.DataType.FLOAT, *HALVES)
        found[value] = HalfTensor(
            value.name or "",
            kind,
            makers=_makers(node),
            readers=tuple(_readers(value)),
            bound_by=found[source].name if same and source is not None else None,
            cast_from=source.name if floats and source is not None else None,
        )
    return list(found.values())


def _inserted(node: ir.Node) -> bool:
    return node.op_type == "Cast" and CASTS.search(INLINED.sub("", node.name or "")) is not None


def _makers(node: ir.Node) -> tuple[str, ...]:
    source = node.inputs[0].producer() if _inserted(node) and node.inputs[0] is not None else node
    return () if source is None else (policy_name(source),)


def _readers(value: ir.Value) -> Iterable[str]:
    for user, _ in value.uses():
        if _inserted(user):
            yield from (name for output in user.outputs for name in _readers(output))
        else:
            yield policy_name(user)


class Measurement:
    """One graph, ready to run; it takes images one after the other."""

    def __init__(self, proto: onnx.ModelProto, *, rounding: bool) -> None:
        """Prepare a graph.

        Args:
            proto: of mixed precision, functions inlined.
            rounding: whether half tensors are rounded, and so may overflow; without it magnitudes are true.
        """
        self.tensors = half_tensors(proto)
        graph = rounded(proto) if rounding else widened(proto)
        made = {name for node in graph.graph.node for name in node.output}
        sources = {}  # measured tensor -> where its values stand before the rounding
        for tensor in (tensor for tensor in self.tensors if tensor.bound_by is None):
            exact = f"{tensor.name}{EXACT}"
            sources[tensor.name] = exact if exact in made else tensor.cast_from or tensor.name
        self._measured = list(sources)
        self._outputs = [output.name for output in graph.graph.output]
        self._session = session_of(_with_magnitudes(graph, list(sources.values())))
        self._largest = dict.fromkeys(self._measured, 0.0)
        self._quietest = dict.fromkeys(self._measured, np.inf)

    def add(self, batch: NetworkInputs) -> dict[str, Any]:
        """Run a batch.

        Returns:
            The network's outputs, by name.
        """
        values = self._session.run(None, dict(zip(INPUTS, batch, strict=True)))
        count, kept = len(self._measured), len(self._outputs)
        maxima, sums = values[kept : kept + count], values[kept + count :]
        for name, largest, total in zip(self._measured, maxima, sums, strict=True):
            magnitude = np.inf if np.isnan(total) or not np.isfinite(largest) else float(largest)
            self._largest[name] = max(self._largest[name], magnitude)
            if magnitude:  # nothing of a tensor of zeros can be lost
                self._quietest[name] = min(self._quietest[name], magnitude)
        return dict(zip(self._outputs, values[:kept], strict=True))

    @property
    def magnitudes(self) -> Magnitudes:
        """Return the magnitudes over the images so far."""
        largest, quietest = dict(self._largest), dict(self._quietest)
        for tensor in self.tensors:
            if tensor.bound_by is not None:
                largest[tensor.name] = largest[tensor.bound_by]
                quietest[tensor.name] = quietest[tensor.bound_by]
        return Magnitudes(largest, quietest)


def _with_magnitudes(proto: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The graph with a maximum and a sum of magnitudes of each tensor behind its outputs.

    ONNX Runtime runs the ancestors of the last node without a reader first. Tensors of the first layers come last here,
    so each is reduced as soon as it is made, and not kept until the end of the run.
    """
    for i, name in reversed(list(enumerate(names))):
        absolute = f"ranges/{i}"
        proto.graph.node.append(onnx.helper.make_node("Abs", [name], [absolute], name=absolute))
        for operator in ("ReduceMax", "ReduceSum"):
            node = onnx.helper.make_node(operator, [absolute], [f"{absolute}/{operator}"], keepdims=0)
            proto.graph.node.append(node)
    for operator in ("ReduceMax", "ReduceSum"):
        for i in range(len(names)):
            value = onnx.helper.make_tensor_value_info(f"ranges/{i}/{operator}", onnx.TensorProto.FLOAT, [])
            proto.graph.output.append(value)
    return proto


def session_of(proto: onnx.ModelProto) -> Any:
    """A graph in ONNX Runtime on the CPU.

    Raises:
        EngineError: it cannot be run.
    """
    return graph_session(
        proto,
        lambda reason: EngineError(
            f"ONNX Runtime cannot run the graph to measure its ranges ({reason}); export the model again with"
            " condinst-export"
        ),
        reuse_memory=False,
    )
