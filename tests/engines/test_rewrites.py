"""The two rewrites into plugin nodes: they fire, they refuse, and the graph still computes the same."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from condinst_engines import engine_file
from condinst_engines.build_recipe import BuildRecipe, RtxSettings, TensorrtSettings
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.node_types import value_types
from condinst_engines.plan_builder import Surroundings, graph_for_builder, plugin_graph_for_builder
from condinst_engines.precision_policy import Policy
from condinst_engines.rewrites.plugins import with_plugins
from tests.support.interpreter import interpreted
from tests.support.models import SlimFiles, noise_image

PLUGINS = ("condinst::SelectInstances 1", "condinst::DynamicMaskHead 1")


def nodes_of(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.op_type: node for node in proto.graph.node if node.domain == "condinst"}


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_both_operations_become_plugins(slim_proto: onnx.ModelProto, precision: Any) -> None:
    recipe = BuildRecipe(precision=precision)
    proto, plugins, refused = plugin_graph_for_builder(slim_proto, recipe)
    assert (plugins, refused) == (PLUGINS, ())
    assert not proto.functions
    select, head = nodes_of(proto)["SelectInstances"], nodes_of(proto)["DynamicMaskHead"]
    common = {"plugin_namespace": b"condinst", "plugin_version": b"1", "aot": 1}
    assert attributes_of(head) == common | {"channels": [8], "hidden": [8]}
    chosen = attributes_of(select)
    assert chosen.pop("nms_iou") == pytest.approx([0.6])
    assert chosen == common | {"max_detections": [100], "candidates": [5000]}
    # nothing else changed: weights to the bit, inputs, outputs, manifest
    plain = graph_for_builder(slim_proto, recipe)
    assert list(proto.metadata_props) == list(plain.metadata_props)
    assert [value.name for value in proto.graph.output] == [value.name for value in plain.graph.output]
    kept = {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in plain.graph.initializer}
    for tensor in proto.graph.initializer:
        assert numpy_helper.to_array(tensor).tobytes() == kept[tensor.name]
    # the check of types against the network finds the plugins' outputs
    import onnx_ir as ir

    types = {value.name: kind.name for value, kind in value_types(ir.from_proto(proto)).items()}
    assert types[head.output[0]] == {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}[precision]
    assert types[select.output[0]] == "INT32"


def test_a_graph_without_the_operations_stays_as_it_is(small_graph: onnx.ModelProto) -> None:
    proto, plugins, refused = with_plugins(small_graph)
    assert (plugins, refused) == ((), ())
    assert [node.op_type for node in proto.graph.node] == [node.op_type for node in small_graph.graph.node]


def changed_type(proto: onnx.ModelProto, value: str, **changes: Any) -> onnx.ModelProto:
    """The file with another declared type or shape of a value."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    (info,) = (entry for entry in copy.graph.value_info if entry.name == value)
    tensor = info.type.tensor_type
    if "kind" in changes:
        tensor.elem_type = changes["kind"]
    for axis, size in changes.get("sizes", {}).items():
        tensor.shape.dim[axis].Clear()
        if size is not None:
            tensor.shape.dim[axis].dim_value = size
    return copy


@pytest.mark.parametrize(
    ("operation", "argument", "changes", "reason"),
    [
        ("DynamicMaskHead", 0, {"kind": onnx.TensorProto.FLOAT16}, "features are float16 and parameters float32"),
        ("DynamicMaskHead", 2, {"kind": onnx.TensorProto.FLOAT16}, "takes float32 coordinates"),
        ("DynamicMaskHead", 0, {"sizes": {1: None}}, "number of channels or of parameters is not fixed"),
        ("DynamicMaskHead", 1, {"sizes": {2: 170}}, "170 parameters do not make three layers over 8 channels"),
        ("DynamicMaskHead", 1, {"sizes": {2: 17 * 10 + 289 + 52}}, "8 channels and 17 hidden ones"),
        ("SelectInstances", 1, {"sizes": {1: 9000}}, "9000 candidates; the kernel has room for 8192"),
        ("SelectInstances", 1, {"sizes": {1: None}}, "number of candidates is not fixed"),
        ("SelectInstances", 1, {"kind": onnx.TensorProto.FLOAT16}, "float32, float16, int32; the kernel takes"),
    ],
)
def test_a_rewrite_refuses_what_its_kernel_does_not_cover(
    slim_proto: onnx.ModelProto, operation: str, argument: int, changes: dict[str, Any], reason: str
) -> None:
    value = nodes_of(slim_proto)[operation].input[argument]
    proto, plugins, (refused,) = with_plugins(changed_type(slim_proto, value, **changes))
    assert plugins == tuple(name for name in PLUGINS if operation not in name)
    assert refused.startswith(f"instances/{operation}: ")
    assert reason in refused
    # its function stays, and so does the call
    assert [function.name for function in proto.functions] == [operation]
    assert "plugin_namespace" not in attributes_of(nodes_of(proto)[operation])


@pytest.mark.parametrize(("kind", "fewest"), [("mmdet", 3), ("mmdet BoxInst", 3), ("adelaidet BoxInst", 1)])
def test_the_rewritten_graph_with_the_kernels_equals_the_original_in_onnx_runtime(
    kind: str, fewest: int, slim_files: SlimFiles
) -> None:
    """Between the plugins ONNX Runtime, in their places the kernels; on the other side the portable bodies."""
    slim_proto = onnx.load(str(slim_files(kind)[1]))
    images = np.stack([noise_image(seed, 96, 128).transpose(2, 0, 1) for seed in (3, 4)])
    feed = {"images": images, "image_sizes": np.array([[96, 128], [80, 120]], np.int32)}
    names = [value.name for value in slim_proto.graph.output]
    want = dict(zip(names, run(slim_proto, names, feed), strict=True))
    rewritten = with_plugins(slim_proto).proto
    got = run_with_kernels(rewritten, names, feed)
    assert min(want["num_detections"]) >= fewest
    for name in ("num_detections", "labels"):
        np.testing.assert_array_equal(got[name], want[name])
    for name in ("boxes", "scores"):
        np.testing.assert_allclose(got[name], want[name], atol=1e-5)
    np.testing.assert_allclose(got["mask_logits"], want["mask_logits"], atol=1e-5 * np.abs(want["mask_logits"]).max())


@pytest.mark.parametrize(
    ("target", "wanted", "plugins", "note"),
    [
        ("86", True, PLUGINS, None),
        ("86", False, (), None),
        ("75", True, (), "the kernels are for sm_80 on"),
    ],
)
def test_a_build_has_plugins_where_the_gpu_and_the_recipe_allow(
    slim_proto: onnx.ModelProto,
    rtx: BuilderLibrary,
    monkeypatch: pytest.MonkeyPatch,
    target: str,
    wanted: bool,
    plugins: tuple[str, ...],
    note: str | None,
) -> None:
    """The builder's input; whether TensorRT knows the plugins is tested on a machine that has it."""
    registered: list[BuilderLibrary] = []
    monkeypatch.setattr(engine_file, "register_plugins", registered.append)
    full = BuilderLibrary("tensorrt", rtx.trt)  # the other library, which lets us name a target without a GPU
    recipe = BuildRecipe(rtx=RtxSettings((target,)), tensorrt=TensorrtSettings(plugins=wanted))
    notes: list[str] = []
    graph, found = engine_file.graph_and_plugins(slim_proto, recipe, full, Surroundings(on_note=notes.append))
    assert found == plugins
    assert set(nodes_of(graph)) == {name.split("::")[1].split()[0] for name in plugins}
    assert registered == ([full] if plugins else [])
    assert notes == [] if note is None else note in notes[0]
    # a builder without plugins never gets one
    assert engine_file.graph_and_plugins(slim_proto, recipe, rtx, Surroundings())[1] == ()


def test_an_operation_whose_nodes_the_policy_names_keeps_its_portable_body(slim_proto: onnx.ModelProto) -> None:
    """A kernel computes all nodes of an operation in one type; the check may have moved one of them."""
    recipe = BuildRecipe(precision="float16", policy=Policy(bf16=("DynamicMaskHead/product2",)))
    proto, plugins, refused = plugin_graph_for_builder(slim_proto, recipe)
    assert plugins == PLUGINS[:1]
    assert set(nodes_of(proto)) == {"SelectInstances"}
    assert refused == ("instances/DynamicMaskHead: the policy gives its node DynamicMaskHead/product2 its own level",)


def run(proto: onnx.ModelProto, names: list[str], feed: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = {value.name for value in session.get_inputs()}
    results: list[Any] = session.run(names, {name: value for name, value in feed.items() if name in wanted})
    return results


def run_with_kernels(proto: onnx.ModelProto, names: list[str], feed: dict[str, Any]) -> dict[str, Any]:
    """Run a graph with plugin nodes: each kernel's results become inputs of what follows."""
    values = dict(feed)
    for operation in ("SelectInstances", "DynamicMaskHead"):
        node = nodes_of(proto)[operation]
        inputs = run(_until(proto, list(node.input), values), list(node.input), values)
        values.update(zip(node.output, _kernel(node, [torch.from_numpy(x) for x in inputs]), strict=True))
    rest = [name for name in names if name not in values]
    values.update(zip(rest, run(_until(proto, rest, values), rest, values), strict=True))
    return {name: values[name] for name in names}


def _kernel(node: onnx.NodeProto, inputs: list[torch.Tensor]) -> list[Any]:
    attributes = attributes_of(node)
    if node.op_type == "SelectInstances":
        limits = (attributes["nms_iou"][0], attributes["max_detections"][0])
        (kept,) = interpreted([("select", (*inputs, *limits))])
        return [result.to(torch.int32).numpy() for result in kept]
    (logits,) = interpreted([("mask_head", (*inputs, attributes["hidden"][0]))])
    return [logits.numpy()]


def _until(proto: onnx.ModelProto, names: list[str], known: dict[str, Any]) -> onnx.ModelProto:
    """The graph without its plugin nodes, with their known results as inputs and `names` as outputs."""
    part = onnx.ModelProto()
    part.CopyFrom(proto)
    graph = part.graph
    outputs = {name for node in nodes_of(proto).values() for name in node.output}
    info = {value.name: value for value in (*graph.value_info, *graph.output)}
    kept = [node for node in graph.node if node.domain != "condinst"]
    # what hangs on results that are not known yet falls away
    missing = outputs - known.keys()
    alive = []
    for node in kept:
        if missing & set(node.input):
            missing |= set(node.output)
        else:
            alive.append(node)
    del graph.node[:], graph.output[:]
    graph.node.extend(alive)
    graph.input.extend(info[name] for name in outputs & known.keys())
    graph.output.extend(info[name] for name in names)
    return part
