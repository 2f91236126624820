"""Request for a quantised build, and the checks before anything is measured."""

from collections import Counter
from collections.abc import Sequence

import onnx
import onnx_ir as ir

from condinst_deploy.errors import ConfigError, EngineError
from condinst_engines.precision_policy import Quantized
from condinst_engines.quantization.codes import codes_type, has_constant_zero_point, is_symmetric
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
    nodes = [node for node in ir.from_proto(proto).graph if node.op_type in QDQ]
    if not nodes:
        return ""
    kinds: Counter[str] = Counter()
    for node in nodes:
        if not has_constant_zero_point(node):
            raise EngineError(
                f"node {node.name} has a zero point that is computed in the graph; TensorRT needs constant ones of 0"
            )
        kind = codes_type(node)
        if kind is None:
            raise EngineError(
                f"node {node.name} has no zero point, and the type of what it reads is not in the file; write it with"
                " zero points"
            )
        if kind == ir.DataType.UINT8:
            raise EngineError(
                f"node {node.name} quantises to uint8: TensorRT is symmetric, and its parser would read uint8 as int8"
                " without an error. A file of condinst-export --int8 is for CPUs;"
                " build from the float32 file with --int8"
            )
        if kind == ir.DataType.INT8 and not is_symmetric(node):
            raise EngineError(
                f"node {node.name} has a zero point that is not 0: TensorRT quantises symmetrically (its parser says"
                " shiftIsAllZeros). Quantise symmetrically, or build from the float32 file with --int8"
            )
        kinds[kind.name.lower()] += 1
    counted = ", ".join(f"{count} of {kind}" for kind, count in kinds.items())
    return f"the file has Q/DQ already ({len(nodes)} nodes, {counted})"
