"""Share of the convolutions' work in each type."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir

from condinst_deploy.contract import NetworkInputs
from condinst_engines.node_types import value_types
from condinst_engines.tensor_comparison import element_counts


def convolution_work(graph: onnx.ModelProto, batch: NetworkInputs) -> dict[ir.DataType, int]:
    """Multiplications and additions of the convolutions for a batch, by the type of their outputs.

    Args:
        graph: functions inlined; convolutions of unknown size are left out.
        batch: sets the sizes.
    """
    model = ir.from_proto(graph)
    types, sizes, found = value_types(model), element_counts(graph, batch), Counter[ir.DataType]()
    for node in model.graph:
        weight = node.inputs[1] if node.op_type == "Conv" else None
        if weight is None or weight.shape is None:
            continue
        output = node.outputs[0]
        # (out, in / groups, height, width): each output element is a sum over the last three
        found[types[output]] += sizes.get(output.name or "", 0) * int(np.prod(weight.shape.numpy()[1:]))
    return dict(found)


def half_share(graph: onnx.ModelProto, batch: NetworkInputs) -> float | None:
    """Share of the convolutions' work that is not in float32; None: the graph has no convolutions."""
    work = convolution_work(graph, batch)
    total = sum(work.values())
    return 1 - work.get(ir.DataType.FLOAT, 0) / total if total else None
