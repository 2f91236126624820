"""A graph in memory as a session of ONNX Runtime on the CPU, for measuring it: ranges, tensors and detections."""

from collections.abc import Callable, Sequence
from typing import Any

import onnx

from condinst_deploy.errors import CondInstError
from condinst_deploy.runtime.cores import usable_cores
from condinst_deploy.shown_text import first_line
from condinst_deploy.support.onnx_runtime import onnx_runtime


def holds_fp8(proto: onnx.ModelProto) -> bool:
    """Return whether a graph has FP8 tensors: ONNX Runtime 1.31 computes them wrong above basic optimisation."""
    attributes = [attribute for node in proto.graph.node for attribute in node.attribute]
    tensors = [*proto.graph.initializer, *(attribute.t for attribute in attributes if attribute.HasField("t"))]
    kinds = {tensor.data_type for tensor in tensors} | {a.i for a in attributes if a.name == "output_dtype"}
    return onnx.TensorProto.FLOAT8E4M3FN in kinds


def graph_session(proto: onnx.ModelProto, failed: Callable[[str], CondInstError], *, reuse_memory: bool = True) -> Any:
    """Load a graph.

    Args:
        proto: a graph that ONNX Runtime can run; its manifest is not read.
        failed: makes the error, from the reason that ONNX Runtime gives.
        reuse_memory: keep the memory of one run for the next. Images of many sizes would keep that of every size.

    Raises:
        CondInstError: of `failed`; the graph cannot be run.
    """
    onnxruntime = onnx_runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, too, and the log quotes names from files
    options.intra_op_num_threads = usable_cores()
    options.enable_cpu_mem_arena = reuse_memory
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other work shares the machine
    if holds_fp8(proto):
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # the module's exceptions have no common base below Exception
        raise failed(first_line(e, 300)) from e


def with_outputs(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a graph whose tensors `names`, of float32, are outputs, too."""
    own = onnx.ModelProto()
    own.CopyFrom(proto)
    present = {output.name for output in own.graph.output}
    for name in dict.fromkeys(names):
        if name not in present:
            own.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return own
