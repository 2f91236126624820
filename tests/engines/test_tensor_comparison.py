"""The comparison finds where two files part, by name."""

import numpy as np
import onnx
import onnx.inliner
import pytest
from onnx import numpy_helper

from condinst_deploy.contract import NetworkInputs
from condinst_deploy.errors import ArtifactError, EngineError
from condinst_engines.mixed_precision import converted
from condinst_engines.tensor_comparison import Compared, compare, tensor_error
from tests.support.graphs import set_weight

BATCH = NetworkInputs(
    np.random.default_rng(0).integers(0, 256, (1, 3, 32, 64), dtype=np.uint8), np.array([[32, 64]], dtype=np.int32)
)


def half(proto: onnx.ModelProto, precision: str = "float16") -> onnx.ModelProto:
    return onnx.inliner.inline_local_functions(converted(proto, precision))  # type: ignore[arg-type]


def copy_of(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return copy


def test_a_file_has_no_error_against_itself(small_graph: onnx.ModelProto) -> None:
    errors = compare(small_graph, small_graph, [BATCH]).errors
    assert {error.name for error in errors} == {
        "pixels", "sizes", "first", "active", "second", "sizes_4d", "pair", "boxes",
    }  # fmt: skip
    assert all(error.relative == error.largest == 0 for error in errors)
    assert all(error.magnitude > 0 for error in errors)


@pytest.mark.parametrize(("precision", "least", "most"), [("float16", 1e-5, 1e-3), ("bfloat16", 1e-4, 1e-2)])
def test_the_error_of_a_precision_is_of_its_size(
    small_graph: onnx.ModelProto, precision: str, least: float, most: float
) -> None:
    errors = {error.name: error for error in compare(small_graph, half(small_graph, precision), [BATCH]).errors}
    assert least < errors["first"].relative < most
    assert errors["pair"].relative == 0
    assert errors["first"].node == "backbone.first/Conv_first"


def test_outputs_come_first_then_the_largest_error(small_graph: onnx.ModelProto) -> None:
    other = copy_of(small_graph)
    set_weight(other, "second_weight", 50.0)
    errors = compare(small_graph, other, [BATCH]).errors
    assert [error.name for error in errors[:2]] == ["boxes", "second"]
    assert all(error.relative == 0 for error in errors[2:])


def test_tensors_behind_a_top_k_come_last_and_are_marked(slim_proto: onnx.ModelProto) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    batch = NetworkInputs(image, np.array([[64, 64]], dtype=np.int32))
    comparison = compare(slim_proto, half(slim_proto), [batch])
    errors = comparison.errors
    layers = [error for error in errors if not error.is_output]
    assert [error.name for error in errors[:3]] != [error.name for error in layers[:3]]
    marks = [error.by_slot for error in layers]
    assert marks == sorted(marks)
    assert {error.node for error in layers if not error.by_slot} >= {"backbone.conv1/Conv", "mask_branch.features/Conv"}
    assert all(
        error.node.startswith(("candidates", "instances", "Select", "neighbourhoods", "params", "Dynamic"))
        for error in layers
        if error.by_slot
    )
    assert not any(error.not_finite for error in errors)
    assert comparison.detections is not None
    assert 0 < comparison.detections.pairs <= comparison.detections.first
    assert not any(error.by_slot for error in errors if error.is_output)


def test_small_portions_give_the_same_metrics(small_graph: onnx.ModelProto) -> None:
    runs: list[int] = []
    whole = compare(small_graph, half(small_graph), [BATCH])
    parts = compare(small_graph, half(small_graph), [BATCH], lambda _, total: runs.append(total), portion=1)
    assert parts == whole
    assert whole.detections is None  # one output alone is no network
    assert runs == [len(whole.errors)] * len(whole.errors)


def test_of_several_images_the_worst_counts(small_graph: onnx.ModelProto) -> None:
    dark = NetworkInputs(np.zeros_like(BATCH.images), BATCH.image_sizes)
    worst = {error.name: error for error in compare(small_graph, half(small_graph), [dark, BATCH, dark]).errors}
    alone = {error.name: error for error in compare(small_graph, half(small_graph), [BATCH]).errors}
    assert worst["first"] == alone["first"]


def test_infinity_is_counted_and_comes_first(small_graph: onnx.ModelProto) -> None:
    for entry in list(small_graph.graph.initializer):
        weight = numpy_helper.to_array(entry) * np.float32(1000)
        entry.CopyFrom(numpy_helper.from_array(weight.astype(np.float32), entry.name))
    errors = compare(small_graph, half(small_graph), [BATCH]).errors
    assert errors[0].is_output
    assert errors[0].not_finite > 0
    assert all(np.isfinite(error.relative) for error in errors)


def test_files_without_common_names_are_refused(small_graph: onnx.ModelProto) -> None:
    other = copy_of(small_graph)
    for node in other.graph.node:
        node.output[:] = [f"new_{name}" for name in node.output]
        weights = {entry.name for entry in other.graph.initializer} | {"images", "image_sizes"}
        node.input[:] = [name if name in weights else f"new_{name}" for name in node.input]
    other.graph.output[0].name = "new_boxes"
    with pytest.raises(ArtifactError, match="no tensor name in common"):
        compare(small_graph, other, [BATCH])


def test_other_shapes_are_refused() -> None:
    with pytest.raises(EngineError, match=r"x has the shapes \(2,\) and \(3,\)"):
        tensor_error("x", "node", np.zeros(2), np.zeros(3))


def test_norms_are_what_they_say() -> None:
    error = tensor_error("x", "node", np.array([3.0, -4.0]), np.array([3.0, np.nan]))
    assert (error.relative, error.largest, error.magnitude, error.not_finite) == (0.0, 0.0, 4.0, 1)
    error = tensor_error("x", "node", np.array([3.0, -4.0]), np.array([3.0, -3.0]))
    assert (error.relative, error.largest, error.not_finite) == (0.2, 1.0, 0)
    assert tensor_error("x", "node", np.zeros(2), np.ones(2)).relative == 1.0
    infinite = tensor_error("x", "node", np.array([3.0, np.inf, -np.inf]), np.array([4.0, 1.0, -np.inf]))
    assert (infinite.relative, infinite.largest, infinite.magnitude, infinite.not_finite) == (1 / 3, 1.0, 3.0, 1)


def test_whole_numbers_that_are_outputs_are_compared(slim_proto: onnx.ModelProto) -> None:
    assert {"num_detections", "labels"} <= Compared.of(slim_proto).nodes.keys()
