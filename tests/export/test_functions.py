"""The two local functions in ONNX Runtime against the PyTorch reference, over the same table of cases."""

from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
import pytest
from onnx import TensorProto, helper

from condinst_deploy.contract.onnx_names import DOMAIN, DYNAMIC_MASK_HEAD, SELECT_INSTANCES
from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.model.mask_head import dynamic_mask_head
from condinst_deploy.model.select import select_instances
from condinst_export.functions import OPSET, dynamic_mask_head_function, select_instances_function
from tests.support.operations import THRESHOLD, MaskHeadCase, SelectCase, mask_head_cases, select_cases


def session_of(
    function: onnx.FunctionProto, inputs: dict[str, int], outputs: dict[str, int], **attributes: Any
) -> onnxruntime.InferenceSession:
    """A model of one node with the function's body."""
    node = helper.make_node(function.name, list(inputs), list(outputs), domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "one_node",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("case", select_cases(), ids=str)
def test_select_instances_gives_the_reference_indices(case: SelectCase) -> None:
    session = session_of(
        select_instances_function(),
        {"boxes": TensorProto.FLOAT, "scores": TensorProto.FLOAT, "labels": TensorProto.INT32},
        {"indices": TensorProto.INT32, "count": TensorProto.INT32},
        max_detections=case.slots,
        nms_iou=THRESHOLD,
    )
    feed = {"boxes": case.boxes.numpy(), "scores": case.scores.numpy(), "labels": case.labels.numpy()}
    indices, count = session.run(None, feed)
    want_indices, want_count = select_instances(case.boxes, case.scores, case.labels, THRESHOLD, case.slots)
    assert count.tolist() == want_count.tolist()
    assert indices.tolist() == want_indices.tolist()


@pytest.mark.parametrize(
    ("channels", "hidden", "case"),
    [(8, 8, case) for case in mask_head_cases()]
    + [(4, 6, case) for case in mask_head_cases(4, 6)[:6]]
    + [(16, 16, case) for case in mask_head_cases(16, 16)]
    + [(16, 8, case) for case in mask_head_cases(16, 8)[:6]],
    ids=str,
)
def test_dynamic_mask_head_gives_the_reference_logits(channels: int, hidden: int, case: MaskHeadCase) -> None:
    config = CondInstConfig(mask_channels=channels, dynamic_channels=hidden)
    session = session_of(
        dynamic_mask_head_function(config),
        {name: TensorProto.FLOAT for name in ("feats", "params", "points", "soi")},
        {"logits": TensorProto.FLOAT},
    )
    tensors = (case.mask_feats, case.params, case.points, case.soi)
    feed = {name: t.numpy() for name, t in zip(("feats", "params", "points", "soi"), tensors, strict=True)}
    (logits,) = session.run(None, feed)
    want = dynamic_mask_head(*tensors, hidden=hidden).numpy()
    assert logits.shape == want.shape
    np.testing.assert_allclose(logits, want, atol=1e-5 * max(1.0, float(np.abs(want).max())))


def test_relative_coordinates_are_never_made_per_instance() -> None:
    """Nothing in the body has K x (C + 2) maps: the widest product has K x hidden rows."""
    config = CondInstConfig()
    function = dynamic_mask_head_function(config)
    graph = helper.make_graph(
        [helper.make_node(DYNAMIC_MASK_HEAD, ["f", "p", "q", "s"], ["logits"], domain=DOMAIN)],
        "one_node",
        [
            helper.make_tensor_value_info("f", TensorProto.FLOAT, [1, 8, 20, 30]),
            helper.make_tensor_value_info("p", TensorProto.FLOAT, [1, 50, 169]),
            helper.make_tensor_value_info("q", TensorProto.FLOAT, [1, 50, 2]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, [1, 50]),
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 50, 20, 30])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(onnx.inliner.inline_local_functions(model), data_prop=True)
    sizes = [
        int(np.prod([d.dim_value for d in value.type.tensor_type.shape.dim])) for value in inferred.graph.value_info
    ]
    assert len(sizes) > 60
    assert max(sizes) == 50 * 8 * 20 * 30


def test_value_names_are_unique_in_a_whole_file() -> None:
    names: list[str] = []
    for function in (select_instances_function(), dynamic_mask_head_function(CondInstConfig())):
        names += [*function.input, *(o for node in function.node for o in node.output)]
        for node in function.node:
            for attribute in node.attribute:
                names += [o for inner in attribute.g.node for o in inner.output]
    assert len(names) == len(set(names))
    assert {name[:4] for name in names} == {"sel_", "dmh_"}
    assert not {SELECT_INSTANCES, DYNAMIC_MASK_HEAD} & {schema.name for schema in onnx.defs.get_all_schemas()}
