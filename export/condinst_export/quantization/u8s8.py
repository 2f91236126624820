"""Q/DQ for ONNX Runtime on CPUs: activations uint8 with a zero point, weights int8 for each output channel.

    x -> Conv -> Relu -> y    becomes    x -> Q -> DQ -> Conv -> Relu -> Q -> DQ -> y

ONNX Runtime turns `DQ, Conv, Q` into one integer convolution, `DQ, DQ, Add, Q` into one integer addition, and drops
the Relu, because the zero point of a tensor without negative values is 0. TensorRT wants another file: it
quantises symmetrically, and inputs alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from condinst_deploy.contract.onnx_names import PREDICTORS
from condinst_export.quantization.nodes import dequantized_twin, insert_pair, registered
from condinst_export.quantization.thresholds import Range, affine

MOST_BIAS = 2.0**30
"""Largest code of a bias: int32 also holds the sum of products that it is added to."""

LEAST_STEP = 2.0**-100
"""Of an integer convolution's sums, where weights and input are zeros: a normal number, so that it divides."""


def convolutions(model: ir.Model, kept: Sequence[str] = PREDICTORS) -> list[ir.Node]:
    """The convolutions that are quantised, in the graph's order."""
    found = (node for node in model.graph if node.op_type == "Conv" and _has_weights(node))
    return [node for node in found if not any(fnmatchcase(node.name or "", pattern) for pattern in kept)]


def _has_weights(node: ir.Node) -> bool:
    return all(value is not None and value.is_initializer() for value in node.inputs[1:])


def end_of(node: ir.Node) -> ir.Value:
    """The tensor behind a convolution that is quantised: its output, or that of the Relu that alone reads it."""
    output = node.outputs[0]
    users = [user for user, _ in output.uses()]
    return users[0].outputs[0] if len(users) == 1 and users[0].op_type == "Relu" else output


def activations(model: ir.Model, kept: Sequence[str] = PREDICTORS) -> list[str]:
    """Names of the tensors that need a range, in the graph's order."""
    nodes = convolutions(model, kept)
    values = [value for node in nodes for value in (node.inputs[0], end_of(node)) if value is not None]
    return list(dict.fromkeys(value.name or "" for value in values))


def quantized(proto: onnx.ModelProto, ranges: Mapping[str, Range], kept: Sequence[str] = PREDICTORS) -> onnx.ModelProto:
    """Write Q/DQ into a float32 graph.

    Args:
        proto: the exported file; it is left as it is.
        ranges: of every tensor of `activations`.
        kept: patterns of convolutions that stay in float32.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    model = ir.from_proto(copy)
    _Pass(model, ranges).run(convolutions(model, kept))
    return ir.to_proto(model)


@dataclass
class _Pass:
    model: ir.Model
    ranges: Mapping[str, Range]
    scales: dict[ir.Value, float] = field(default_factory=dict)  # dequantised tensor -> its scale

    def run(self, nodes: Sequence[ir.Node]) -> None:
        values = dict.fromkeys(value for node in nodes for value in (node.inputs[0], end_of(node)))
        for value in values:
            assert value is not None
            self._quantise(value)
        for node in nodes:
            self._quantise_weights(node)

    def _quantise(self, value: ir.Value) -> None:
        """Q and DQ behind the tensor's producer, for all who read it."""
        name = value.name or ""
        scale, zero = affine(self.ranges[name])
        parameters = [
            self._constant(f"{name}_scale", np.array(scale, dtype=np.float32)),
            self._constant(f"{name}_zero_point", np.array(zero, dtype=np.uint8)),
        ]
        wide = dequantized_twin(value)
        value.replace_all_uses_with(wide)
        insert_pair(self.model.graph, value, wide, parameters, "uint8", ir.DataType.UINT8)
        self.scales[wide] = scale

    def _quantise_weights(self, node: ir.Node) -> None:
        source, weight = node.inputs[0], node.inputs[1]
        assert source is not None
        assert weight is not None
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        least = np.zeros(1) if bias is None else np.abs(_array(bias).astype(np.float64)) / MOST_BIAS
        codes, scales = int8_weight(_array(weight), np.maximum(least, LEAST_STEP) / self.scales[source])
        # levels that share a weight get a copy each: ONNX Runtime cannot make a shared one uint8 (CPUs without VNNI)
        node.replace_input_with(1, self._dequantized(f"{node.name}/weight", weight, codes, scales))
        if bias is not None:
            node.replace_input_with(2, self._bias(node, bias, scales * np.float32(self.scales[source])))

    def _bias(self, node: ir.Node, bias: ir.Value, scales: npt.NDArray[np.float32]) -> ir.Value:
        """The bias as int32 in units of input scale times weight scale: what the integer convolution adds."""
        codes = np.rint(_array(bias).astype(np.float64) / scales).astype(np.int32)
        return self._dequantized(f"{node.name}/bias", bias, codes, scales)

    def _dequantized(
        self, name: str, value: ir.Value, codes: npt.NDArray[np.generic], scales: npt.NDArray[np.float32]
    ) -> ir.Value:
        kind = codes.dtype.name
        zeros = np.zeros(len(scales), dtype=codes.dtype)
        inputs = [
            self._constant(f"{name}_{kind}", codes),
            self._constant(f"{name}_scale", scales),
            self._constant(f"{name}_zero_point", zeros),
        ]
        wide = ir.Value(name=f"{name}_dequantized", shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT))
        node = ir.node("DequantizeLinear", inputs, {"axis": 0}, outputs=[wide], name=f"{name}/DequantizeLinear")
        graph = self.model.graph
        graph.insert_before(next(iter(graph)), node)
        return wide

    def _constant(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        return registered(self.model.graph, ir.Tensor(array, name=name))


def int8_weight(
    values: npt.NDArray[np.float32], least: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Codes and scales of a convolution's weight: symmetric, one scale for each output channel.

    Args:
        values: `(out, in, h, w)`.
        least: scales at least, of each channel or `(1,)`; a channel of smaller weights gets a coarser grid.
    """
    magnitudes = np.abs(values).reshape(len(values), -1).max(axis=1).astype(np.float64)
    scales = np.maximum(magnitudes / 127, least).astype(np.float32)
    codes = np.clip(np.rint(values / scales[:, None, None, None]), -127, 127).astype(np.int8)
    return codes, scales


def _array(value: ir.Value) -> npt.NDArray[np.float32]:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy())
