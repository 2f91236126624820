"""Conversion of a graph to half precision: types, casts, weights, and what it costs."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, numpy_helper

from condinst_deploy.contract import MANIFEST_KEY, ModelManifest
from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import ConfigError, EngineError
from condinst_deploy.evaluation.agreement import agreement
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_engines.mixed_precision import converted
from condinst_engines.node_types import value_types
from condinst_engines.precision_policy import Policy
from condinst_engines.rounding import rounded
from tests.support.batches import host_batch
from tests.support.graphs import set_weight
from tests.support.models import noise_image

HALF = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def inlined(proto: onnx.ModelProto, precision: Precision, policy: Policy | None = None) -> onnx.ModelProto:
    return onnx.inliner.inline_local_functions(converted(proto, precision, policy))


def made_types(proto: onnx.ModelProto) -> dict[str, str]:
    """Node name -> type of its first output."""
    types = value_types(ir.from_proto(proto))
    return {value.producer().name: kind.name for value, kind in types.items() if value.producer()}  # type: ignore[union-attr, misc]


@pytest.fixture(scope="module")
def float16(slim_proto: onnx.ModelProto) -> onnx.ModelProto:
    return inlined(slim_proto, "float16")


def test_the_converted_file_is_valid_onnx_with_and_without_functions(slim_proto: onnx.ModelProto) -> None:
    proto = converted(slim_proto, "float16")
    onnx.checker.check_model(proto, full_check=True)
    assert {node.op_type for node in proto.graph.node if node.domain == "condinst"} == {
        "SelectInstances",
        "DynamicMaskHead",
    }
    onnx.checker.check_model(onnx.inliner.inline_local_functions(proto), full_check=True)


def test_the_given_file_is_left_as_it_is(slim_proto: onnx.ModelProto) -> None:
    before = slim_proto.SerializeToString(deterministic=True)
    converted(slim_proto, "float16")
    assert slim_proto.SerializeToString(deterministic=True) == before


def test_float32_changes_nothing(slim_proto: onnx.ModelProto) -> None:
    assert converted(slim_proto, "float32") == slim_proto
    with pytest.raises(ConfigError, match="matches no node"):
        converted(slim_proto, "float32", Policy(float32=("nothing*",)))


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_inputs_and_outputs_keep_the_types_of_the_contract(slim_proto: onnx.ModelProto, precision: Precision) -> None:
    proto = inlined(slim_proto, precision)
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*proto.graph.input, *proto.graph.output)}
    # numpy has no bfloat16, and float16 would not hold all of its values
    logits = TensorProto.FLOAT16 if precision == "float16" else TensorProto.FLOAT
    assert kinds == {
        "images": TensorProto.UINT8,
        "image_sizes": TensorProto.INT32,
        "num_detections": TensorProto.INT32,
        "boxes": TensorProto.FLOAT,
        "scores": TensorProto.FLOAT,
        "labels": TensorProto.INT32,
        "mask_logits": logits,
    }


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_every_node_has_the_type_that_the_policy_gives_it(slim_proto: onnx.ModelProto, precision: Precision) -> None:
    policy, found = Policy(), Counter[bool]()
    for name, kind in made_types(inlined(slim_proto, precision)).items():
        if kind not in ("FLOAT", "FLOAT16", "BFLOAT16") or "/Cast" in name:
            continue
        half = policy.rule_for(name.removesuffix("__1").removesuffix("__2")).level == "half"
        assert kind == (precision.upper() if half else "FLOAT"), name
        found[half] += 1
    assert found[True] > 400
    assert found[False] > 200


def test_weights_are_converted_once_and_keep_their_names(slim_proto: onnx.ModelProto, float16: onnx.ModelProto) -> None:
    before = {entry.name: entry for entry in slim_proto.graph.initializer}
    after = {entry.name: entry for entry in float16.graph.initializer}
    for name in ("model.backbone.conv1.weight", "model.head.controller.bias"):
        want = torch.from_numpy(numpy_helper.to_array(before[name]).copy()).half().numpy()
        np.testing.assert_array_equal(numpy_helper.to_array(after[name]), want)
    assert len(float16.SerializeToString()) < 0.55 * len(slim_proto.SerializeToString())


def test_no_value_is_cast_there_and_back(float16: onnx.ModelProto) -> None:
    model = ir.from_proto(float16)
    kinds = value_types(model)
    for node in model.graph:
        source = node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] is not None else None
        if source is not None and source.op_type == "Cast" and source.inputs[0] is not None:
            there, back = kinds[source.inputs[0]], kinds[node.outputs[0]]
            assert there != back or not there.is_floating_point(), node.name


def test_the_manifest_says_the_precision(float16: onnx.ModelProto) -> None:
    (entry,) = [entry.value for entry in float16.metadata_props if entry.key == MANIFEST_KEY]
    assert ModelManifest.from_json(entry).precision == "float16"


def test_a_recipe_can_keep_nodes_in_float32(slim_proto: onnx.ModelProto) -> None:
    policy = Policy(float32=("head.box_pred/*", "mask_branch*"))
    types = made_types(inlined(slim_proto, "float16", policy))
    assert types["head.box_pred/Conv_3"] == types["mask_branch.features/Conv"] == "FLOAT"
    assert types["head.cls_logits/Conv_3"] == "FLOAT16"
    onnx.checker.check_model(inlined(slim_proto, "float16", policy), full_check=True)


def test_a_recipe_can_convert_more(slim_proto: onnx.ModelProto) -> None:
    proto = inlined(
        slim_proto, "float16", Policy(half=("normalize/*", "candidates.levels.p7/Sigmoid*", "instances/Mul*"))
    )
    onnx.checker.check_model(proto, full_check=True)
    assert made_types(proto)["normalize/Div"] != "FLOAT"
    assert made_types(proto)["candidates.levels.p7/Sigmoid"] == "FLOAT16"
    outputs = {value.name: value.type.tensor_type.elem_type for value in proto.graph.output}
    assert outputs["boxes"] == outputs["scores"] == TensorProto.FLOAT  # cast back


def test_a_function_that_is_called_twice_is_refused(slim_proto: onnx.ModelProto) -> None:
    twice = onnx.ModelProto()
    twice.CopyFrom(slim_proto)
    (call,) = [node for node in twice.graph.node if node.op_type == "DynamicMaskHead"]
    again = twice.graph.node.add()
    again.CopyFrom(call)
    again.output[:], again.name = ["other_logits"], "instances/again"
    with pytest.raises(EngineError, match="DynamicMaskHead is called twice"):
        converted(twice, "float16")


def test_nodes_in_a_loop_cannot_be_converted(slim_proto: onnx.ModelProto) -> None:
    with pytest.raises(ConfigError, match="SelectInstances/iou is in a loop"):
        converted(slim_proto, "float16", Policy(half=("SelectInstances/iou",)))


def test_a_weight_that_float16_cannot_hold_is_named(small_graph: onnx.ModelProto) -> None:
    set_weight(small_graph, "second_weight", 7e4)
    with pytest.raises(EngineError, match="second_weight reaches 70000, which float16 cannot hold"):
        converted(small_graph, "float16")
    assert weight_types(converted(small_graph, "bfloat16")) == ["BFLOAT16", "BFLOAT16"]
    assert weight_types(converted(small_graph, "float16", Policy(float32=("head*",)))) == ["FLOAT", "FLOAT16"]


def weight_types(proto: onnx.ModelProto) -> list[str]:
    return sorted(ir.DataType(entry.data_type).name for entry in proto.graph.initializer)


def test_a_weight_that_is_not_finite_is_named(small_graph: onnx.ModelProto) -> None:
    set_weight(small_graph, "first_weight", float("nan"))
    with pytest.raises(EngineError, match="first_weight reaches nan"):
        converted(small_graph, "bfloat16")


def test_an_unknown_operator_is_named(small_graph: onnx.ModelProto) -> None:
    small_graph.graph.node[3].op_type = "Frobnicate"
    with pytest.raises(EngineError, match=r"backbone\.first/Conv_first is ::Frobnicate"):
        converted(small_graph, "float16")


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_rounding_gives_what_pytorch_gives(small_graph: onnx.ModelProto, precision: Precision) -> None:
    """The same two convolutions in PyTorch, rounded by PyTorch's own conversions."""
    images = np.random.default_rng(1).integers(0, 256, (1, 3, 32, 64), dtype=np.uint8)
    graph = rounded(inlined(small_graph, precision))
    assert not set(HALF.values()) & {entry.data_type for entry in graph.graph.initializer}
    dtype = torch.float16 if precision == "float16" else torch.bfloat16

    def half(x: torch.Tensor) -> torch.Tensor:
        return x.to(dtype).float()

    first, second = (torch.from_numpy(numpy_helper.to_array(w).copy()) for w in small_graph.graph.initializer)
    x = half(torch.from_numpy(images).float())
    x = half(torch.nn.functional.conv2d(x, half(first), padding=1)).relu()
    want = half(torch.nn.functional.conv2d(x, half(second), padding=1)) + 7

    import onnxruntime

    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images, "image_sizes": np.array([[7, 7]], dtype=np.int32)})
    # two float32 sums in another order may fall on either side of a rounding boundary, rarely
    step = np.abs(want.numpy()).max() * 2.0 ** (-10 if precision == "float16" else -7)
    assert np.abs(found - want.numpy()).max() <= step
    assert (found == want.numpy()).mean() > 0.99


@pytest.mark.usefixtures("one_thread")
def test_float16_keeps_the_detections(slim_onnx: Path, float16: onnx.ModelProto) -> None:
    images = [noise_image(seed, 128, 160) for seed in range(3)]
    with OnnxRuntimeBackend.load(slim_onnx, "cpu") as exact:
        want = exact.postprocess(exact.forward((batch := host_batch(exact, images))[0]), batch[1])
    for graph in (float16, rounded(float16)):
        with OnnxRuntimeBackend.from_bytes(graph.SerializeToString(), "float16", "cpu") as half:
            found = half.postprocess(half.forward(batch[0]), batch[1])
        results = [agreement(a, b, min_iou=0.9) for a, b in zip(want, found, strict=True)]
        total = sum(result.reference_count for result in results)
        assert total > 20
        assert sum(result.matched for result in results) >= 0.97 * total
        assert np.median(np.concatenate([result.mask_ious for result in results])) >= 0.99


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_graph_that_was_converted_before_is_refused_whatever_its_manifest_says(
    small_graph: onnx.ModelProto, precision: Precision
) -> None:
    half = converted(small_graph, "float16")
    del half.metadata_props[:]
    half.metadata_props.extend(small_graph.metadata_props)
    with pytest.raises(EngineError, match=r"has half precision already \(.*first_weight"):
        converted(half, precision)


def test_a_graph_without_names_is_refused(small_graph: onnx.ModelProto) -> None:
    for node in small_graph.graph.node:
        node.name = ""
    with pytest.raises(EngineError, match="names of 9 nodes"):
        converted(small_graph, "float16")
    converted(small_graph, "float32")
