"""Explicit Q/DQ for TensorRT: symmetric, and on inputs alone.

    x -> Conv    becomes    x -> Q -> DQ -> Conv, with int8 or fp8 weights -> DQ -> Conv

A residual addition reads the dequantised input of its block, which is there already. Outputs of convolutions keep
their type. Scales are numbers of the half type that the engine is built for, and the weights' codes are made with
these scales, so that nothing is lost when the graph becomes half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from condinst_deploy.contract.precision import Precision
from condinst_engines.precision_policy import Policy, Quantized
from condinst_export.quantization.nodes import dequantized_twin, insert_pair, registered
from condinst_export.quantization.thresholds import LARGEST_FP8, Range, symmetric_scale

OPSET = 21
"""Q/DQ of half tensors and of fp8; the operators of exported files mean the same as in 18."""

QDQ = ("QuantizeLinear", "DequantizeLinear")

LEAST_SCALE = 2.0**-20
"""Smallest scale, which float16 holds with four digits; a channel of smaller weights gets a coarser grid."""

CODES: dict[Quantized, ir.DataType] = {"int8": ir.DataType.INT8, "fp8": ir.DataType.FLOAT8E4M3FN}
LARGEST: dict[Quantized, float] = {"int8": 127.0, "fp8": LARGEST_FP8}

HALF_NUMBERS: dict[Precision, npt.DTypeLike] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}


@dataclass(frozen=True)
class Scales:
    """Inputs of a quantised build besides the graph."""

    kind: Quantized
    ranges: Mapping[str, Range]  # tensor of the exported file -> range
    only: frozenset[str] | None = None  # convolutions; None: all that the policy quantises


def chosen_convolutions(model: ir.Model, policy: Policy, precision: Precision, kind: Quantized) -> list[ir.Node]:
    """The convolutions that the policy quantises, in the graph's order.

    Those that the policy moves out of the engine's half type (`bf16`, `fp32`) stay as they are.
    """
    found = (node for node in model.graph if node.op_type == "Conv" and _has_weight(node))
    return [node for node in found if policy.quantizes(node.name or "", precision, kind)]


def activations(nodes: Sequence[ir.Node]) -> list[str]:
    """Names of the tensors that need a range."""
    return list(dict.fromkeys(node.inputs[0].name or "" for node in nodes if node.inputs[0] is not None))


def _has_weight(node: ir.Node) -> bool:
    weight = node.inputs[1]
    return weight is not None and weight.is_initializer()


def insert_qdq(model: ir.Model, scales: Scales, policy: Policy, precision: Precision) -> None:
    """Write Q/DQ before the convolutions that the policy quantises, in place.

    Args:
        model: in float32; its opset becomes `OPSET`.
        scales: with a range of every tensor of `activations`.
        policy: says which convolutions.
        precision: the engine's half type, to which scales are rounded.
    """
    nodes = chosen_convolutions(model, policy, precision, scales.kind)
    nodes = [node for node in nodes if scales.only is None or node.name in scales.only]
    set_opset(model)
    _Pass(model, scales, precision).run(nodes)


def set_opset(model: ir.Model) -> None:
    """Let a graph have half scales and fp8, in place; its operators mean the same in both opsets."""
    model.opset_imports[""] = OPSET
    for function in model.functions.values():
        function.opset_imports[""] = OPSET


@dataclass
class _Pass:
    model: ir.Model
    scales: Scales
    precision: Precision
    done: dict[ir.Value, ir.Value] = field(default_factory=dict)  # weight -> dequantised

    def run(self, nodes: Sequence[ir.Node]) -> None:
        chosen = set(nodes)
        for value in dict.fromkeys(node.inputs[0] for node in nodes):
            assert value is not None
            self._activation(value, chosen)
        for node in nodes:
            weight = node.inputs[1]
            assert weight is not None
            if weight not in self.done:
                self.done[weight] = self._weight(weight, node)
            node.replace_input_with(1, self.done[weight])

    def _activation(self, value: ir.Value, chosen: set[ir.Node]) -> None:
        name = value.name or ""
        scale = self._as_half(np.array(symmetric_scale(self.scales.ranges[name], self.scales.kind)))
        parameters = self._parameters(name, scale)
        wide = dequantized_twin(value)
        for user, index in list(value.uses()):
            if user in chosen or (user.op_type == "Add" and (user.name or "").startswith("backbone")):
                user.replace_input_with(index, wide)
        kind = self.scales.kind
        insert_pair(self.model.graph, value, wide, parameters, kind, CODES[kind])

    def _weight(self, weight: ir.Value, node: ir.Node) -> ir.Value:
        assert weight.const_value is not None
        name, values = weight.name or "", np.asarray(weight.const_value.numpy())
        codes, scales = weight_codes(values, self.scales.kind, HALF_NUMBERS[self.precision])
        kind = self.scales.kind
        narrow = registered(self.model.graph, ir.Tensor(codes, dtype=CODES[kind], name=f"{name}_{kind}"))
        wide = dequantized_twin(weight)
        owner = f"{(node.name or '').split('/', 1)[0]}/weight/DequantizeLinear"
        inputs = [narrow, *self._parameters(name, scales)]
        self.model.graph.insert_before(
            next(iter(self.model.graph)), ir.node("DequantizeLinear", inputs, {"axis": 0}, outputs=[wide], name=owner)
        )
        return wide

    def _parameters(self, name: str, scale: npt.NDArray[np.float32]) -> list[ir.Value]:
        kind = CODES[self.scales.kind]
        zeros = np.zeros(scale.shape, dtype=kind.numpy())
        tensors = [
            ir.Tensor(scale.astype(np.float32), name=f"{name}_scale"),
            ir.Tensor(zeros, dtype=kind, name=f"{name}_zero_point"),
        ]
        return [registered(self.model.graph, tensor) for tensor in tensors]

    def _as_half(self, scale: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        return half_scales(scale, HALF_NUMBERS[self.precision])


def largest_range(kind: Quantized, precision: Precision) -> float:
    """Magnitude whose scale is the largest number of the half type."""
    return float(ml_dtypes.finfo(HALF_NUMBERS[precision]).max) * LARGEST[kind]  # type: ignore[no-untyped-call]


def half_scales(scales: npt.NDArray[np.float64], half: npt.DTypeLike) -> npt.NDArray[np.float32]:
    """The scales as numbers of a half type, and not smaller than `LEAST_SCALE`."""
    return np.maximum(scales, LEAST_SCALE).astype(np.float32).astype(half).astype(np.float32)


def weight_codes(
    values: npt.NDArray[np.float32], kind: Quantized, half: npt.DTypeLike = np.float32
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float32]]:
    """Codes and scales of a convolution's weight `(out, in, h, w)`: symmetric, one scale for each output channel."""
    magnitudes = np.abs(values).reshape(len(values), -1).max(axis=1).astype(np.float64)
    scales = half_scales(magnitudes / LARGEST[kind], half)
    scaled = np.clip(values / scales[:, None, None, None], -LARGEST[kind], LARGEST[kind])
    if kind == "int8":
        return np.rint(scaled).astype(np.int8), scales
    return scaled.astype(ml_dtypes.float8_e4m3fn), scales
