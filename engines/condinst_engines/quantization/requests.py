"""Request for a quantised build, and the checks before anything is measured."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from condinst_deploy.errors import ConfigError, EngineError
from condinst_engines.precision_policy import Quantized
from condinst_engines.quantization.insert import QDQ

LOWEST: dict[Quantized, int] = {"int8": 80, "fp8": 89}
"""Lowest compute capability of each kind."""

REASONS: dict[Quantized, str] = {
    "int8": "on GPUs below 80 (T4, RTX 20) TensorRT for RTX builds half convolutions without an error;"
    " use --fp16 for them",
    "fp8": "GPUs below 89 (A100, RTX 30) have no FP8; use --int8 for them",
}


def check_targets(kind: Quantized, targets: Sequence[str]) -> None:
    """Refuse GPUs that do not have a kind.

    Raises:
        ConfigError: there is one.
    """
    old = [target for target in targets if int(target) < LOWEST[kind]]
    if old:
        raise ConfigError(f"--{kind} and compute capability {', '.join(old)}: {REASONS[kind]}")


def described_qdq(proto: onnx.ModelProto) -> str:
    """Return a short description of a file's 8-bit tensors; empty if it has no Q/DQ.

    Raises:
        EngineError: its Q/DQ is not what TensorRT can build.
    """
    nodes = [node for node in proto.graph.node if node.op_type in QDQ]
    if not nodes:
        return ""
    values = {entry.name: entry for entry in proto.graph.initializer}
    kinds: Counter[str] = Counter()
    for node in nodes:
        zero = values.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None and len(node.input) > 2:
            raise EngineError(
                f"node {node.name} has a zero point that is no constant; TensorRT needs constant ones of 0"
            )
        kind = "uint8" if zero is None else onnx.TensorProto.DataType.Name(zero.data_type).lower()
        if kind == "uint8":
            raise EngineError(
                f"node {node.name} quantises to uint8: TensorRT is symmetric, and its parser would read uint8 as int8"
                " without an error. A file of condinst-export --int8 is for CPUs;"
                " build from the float32 file with --int8"
            )
        if zero is not None and kind == "int8" and np.any(numpy_helper.to_array(zero)):
            raise EngineError(
                f"node {node.name} has a zero point that is not 0: TensorRT quantises symmetrically (its parser says"
                " shiftIsAllZeros). Quantise symmetrically, or build from the float32 file with --int8"
            )
        kinds[kind] += 1
    counted = ", ".join(f"{count} of {kind}" for kind, count in kinds.items())
    return f"the file has Q/DQ already ({len(nodes)} nodes, {counted})"
