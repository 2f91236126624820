"""Two ONNX files on the same inputs, tensor by tensor: what a precision costs, and where.

Tensors are matched by name, and in the outputs detection with detection (`slots.py`). Every compared tensor becomes
an output for a while; they are taken in portions, so that memory stays bounded, and each portion is one run of either
file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnx_ir as ir

from condinst_deploy.contract import INPUTS, OUTPUTS, NetworkInputs
from condinst_deploy.errors import ArtifactError, EngineError
from condinst_deploy.runtime.onnxruntime_session import run_session
from condinst_engines.node_types import HALVES, value_types
from condinst_engines.rounding import rounded
from condinst_engines.slots import PER_SLOT, Matched, matched_outputs
from condinst_export.graph_session import graph_session, with_outputs

PORTION = 2**30
"""Bytes of float32 tensors that are held of either file at once."""

UNKNOWN_ELEMENTS = 2**21
"""Taken for a tensor whose size is unknown before the run: a level's class probabilities at full size."""
Tensors = dict[str, npt.NDArray[Any]]
FLOATING = (ir.DataType.FLOAT, *HALVES)


@dataclass(frozen=True)
class TensorError:
    """Difference of a tensor of the second file from that of the first."""

    name: str
    node: str  # that makes it in the first file
    relative: float  # norm of the difference over norm of the first
    largest: float  # difference of one element
    magnitude: float  # largest element of the first
    not_finite: int  # elements of the second that are NaN or infinite
    by_slot: bool = False  # behind a top-k: where scores change places, whole slots differ

    @property
    def is_output(self) -> bool:
        """Return whether it is one of the network's outputs."""
        return self.name in OUTPUTS


@dataclass(frozen=True)
class Comparison:
    """Two files: what their tensors differ by, and how many detections they share."""

    errors: list[TensorError]
    detections: Matched | None  # whose slots the errors of the outputs are of; None: the files are no whole networks


@dataclass(frozen=True)
class Compared:
    """One side: a graph without functions, its floating tensors and its outputs, and the nodes that make them."""

    proto: onnx.ModelProto
    nodes: Mapping[str, str]  # tensor -> node
    by_slot: frozenset[str]  # tensors behind a top-k

    @classmethod
    def of(cls, proto: onnx.ModelProto) -> "Compared":
        """Inline functions; what ONNX Runtime cannot run (bfloat16) or may merge (float16) is written as rounding."""
        inlined = onnx.inliner.inline_local_functions(proto)
        model = ir.from_proto(inlined)
        types = value_types(model)
        if any(kind in HALVES for kind in types.values()):
            inlined = rounded(inlined)
        made = ((value, kind, value.producer()) for value, kind in types.items())
        nodes = {
            value.name or "": producer.name or ""
            for value, kind, producer in made
            if (kind in FLOATING or value.name in OUTPUTS) and producer is not None and producer.op_type != "Constant"
        }
        return cls(inlined, nodes, _behind_top_k(model))


def _behind_top_k(model: ir.Model) -> frozenset[str]:
    """Names of the values that depend on the order of scores."""
    found: set[ir.Value | None] = set()
    for node in model.graph:
        if node.op_type == "TopK" or not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return frozenset(value.name or "" for value in found if value is not None)


def compare(
    first: onnx.ModelProto,
    second: onnx.ModelProto,
    batches: Sequence[NetworkInputs],
    on_portion: Callable[[int, int], None] = lambda done, total: None,
    portion: int = PORTION,
) -> Comparison:
    """Error norms of every floating tensor that both files have.

    Outputs come first, of matched detections alone, then layers, largest relative error first, those behind a top-k
    last: these are compared slot by slot.

    Args:
        first: the reference.
        second: the other.
        batches: inputs; of several, the worst error of a tensor counts.
        on_portion: called with the number of runs that are done, and of all.
        portion: bytes of tensors held of either file at once.

    Raises:
        ArtifactError: the files have no tensor in common, or cannot be run.
    """
    left, right = Compared.of(first), Compared.of(second)
    common = [name for name in left.nodes if name in right.nodes]
    if not common:
        raise ArtifactError("the two files have no tensor name in common; are they exports of the same model?")
    worst: dict[str, TensorError] = {}
    detections: Matched | None = None
    work = [(batch, names) for batch in batches for names in _portions(left.proto, common, batch, portion)]
    for done, (batch, names) in enumerate(work):
        on_portion(done, len(work))
        ours, others = (_run(side.proto, names, batch) for side in (left, right))
        infinite = {name: int((~np.isfinite(value)).sum()) for name, value in others.items()}  # in all slots
        matched = _is_network(ours, others)
        if matched:
            ours, others, counts = matched_outputs(ours, others)
            detections = counts if detections is None else detections + counts
        for name in names:
            error = tensor_error(name, left.nodes[name], ours.pop(name), others.pop(name))
            by_slot = name in left.by_slot and not matched
            error = replace(error, by_slot=by_slot, not_finite=infinite[name])
            if name not in worst or _rank(error) < _rank(worst[name]):
                worst[name] = error
    return Comparison(sorted(worst.values(), key=_rank), detections)


def _is_network(ours: Tensors, others: Tensors) -> bool:
    """Return whether these are all outputs of a network, with the same number of slots."""
    return set(OUTPUTS) == set(ours) and all(ours[name].shape[:2] == others[name].shape[:2] for name in PER_SLOT)


def tensor_error(name: str, node: str, first: npt.NDArray[Any], second: npt.NDArray[Any]) -> TensorError:
    """Norms of one pair, over the elements that are finite in both.

    Raises:
        EngineError: the shapes differ.
    """
    if first.shape != second.shape:
        raise EngineError(f"{name} has the shapes {first.shape} and {second.shape}; is it the same model?")
    a, b = first.astype(np.float64), second.astype(np.float64)
    finite = np.isfinite(b)
    both = finite & np.isfinite(a)
    a = np.where(np.isfinite(a), a, 0.0)
    difference = np.where(both, np.where(both, b, 0.0) - a, 0.0)
    norm = float(np.linalg.norm(a))
    size = float(np.linalg.norm(difference))
    return TensorError(
        name=name,
        node=node,
        relative=size / norm if norm else float(size > 0),
        largest=float(np.abs(difference).max(initial=0.0)),
        magnitude=float(np.abs(a).max(initial=0.0)),
        not_finite=int((~finite).sum()),
    )


def _rank(error: TensorError) -> tuple[bool, bool, bool, float]:
    return not error.is_output, not error.not_finite, error.by_slot, -error.relative


def _portions(proto: onnx.ModelProto, names: Sequence[str], batch: NetworkInputs, limit: int) -> Iterator[list[str]]:
    """Names in portions of a size, the outputs together in the first."""
    sizes = element_counts(proto, batch)
    outputs = [name for name in names if name in OUTPUTS]
    if outputs:
        yield outputs
    portion: list[str] = []
    held = 0
    for name in (name for name in names if name not in OUTPUTS):
        size = 4 * sizes.get(name, UNKNOWN_ELEMENTS)
        if portion and held + size > limit:
            yield portion
            portion, held = [], 0
        portion.append(name)
        held += size
    if portion:
        yield portion


def element_counts(proto: onnx.ModelProto, batch: NetworkInputs) -> dict[str, int]:
    """Elements of each tensor whose shape follows from the inputs' shapes."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.ClearField("shape")
    arrays: tuple[npt.NDArray[Any], ...] = batch
    for value, array in zip(fixed.graph.input, arrays, strict=True):
        for side in array.shape:
            value.type.tensor_type.shape.dim.add().dim_value = side
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True)
    found = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            found[value.name] = int(np.prod([dim.dim_value for dim in dims], dtype=np.int64))
    return found


def _run(proto: onnx.ModelProto, names: Sequence[str], batch: NetworkInputs) -> Tensors:
    """The tensors `names` of one run in ONNX Runtime."""
    session = graph_session(
        with_outputs(proto, names), lambda reason: ArtifactError(f"ONNX Runtime cannot load the graph ({reason})")
    )
    values = run_session(session, names, dict(zip(INPUTS, batch, strict=True)), "the graph")
    return dict(zip(names, values, strict=True))
