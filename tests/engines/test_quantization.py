"""INT8 and FP8 engines: which convolutions, the Q/DQ pass, real builds with their proof, and what is refused."""

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from condinst_deploy.contract import INPUTS
from condinst_deploy.errors import ConfigError, EngineError
from condinst_engines.build_recipe import BuildRecipe
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.plan_builder import build_plan, graph_for_builder, targets_of
from condinst_engines.precision_policy import Policy, Quantized
from condinst_engines.profiles import image_profile
from condinst_engines.quantization.insert import (
    LEAST_SCALE,
    Scales,
    chosen_convolutions,
    insert_qdq,
    weight_codes,
)
from condinst_engines.quantization.proof import (
    asked_convolutions,
    check_quantized,
    convolutions_of_layers,
    convolutions_of_plan,
)
from condinst_engines.rounding import rounded
from condinst_export.quantization.thresholds import Range
from tests.support.quantized_graphs import recipe_for, scales_for

pytestmark = pytest.mark.usefixtures("one_thread")

PROFILE = image_profile((1, 3, 32, 32), (1, 3, 128, 224), (2, 3, 224, 224))


def test_predictors_stem_first_layer_and_mask_convolutions_stay_half(slim_proto: onnx.ModelProto) -> None:
    nodes = chosen_convolutions(ir.from_proto(slim_proto), Policy(), "float16", "int8")
    names = {node.name or "" for node in nodes}
    assert len(names) == 90
    half = ("backbone.conv1/", "backbone.layer1.", "mask_branch", "head.cls_logits", "head.box_pred", "head.centerness")
    assert not [name for name in names if name.startswith(half)]
    assert {name.split(".")[1] for name in names if name.startswith("backbone")} == {"layer2", "layer3", "layer4"}


def test_a_recipe_adds_and_takes_away_convolutions() -> None:
    policy = Policy(half=("fpn*",), int8=("mask_branch*", "head*"), bf16=("head.cls_tower.0.conv/Conv_5",))
    quantizes = partial(policy.quantizes, precision="float16", kind="int8")
    assert quantizes("mask_branch.refine.0.conv/Conv")
    assert quantizes("head.cls_tower.0.conv/Conv")
    assert quantizes("backbone.layer2.0.conv1/Conv")
    assert not quantizes("fpn.output.0/Conv")
    assert not quantizes("head.cls_tower.0.conv/Conv_5")  # the range check moved it
    assert not quantizes("mask_branch.features/Conv")  # a predictor, whatever a recipe says
    assert not quantizes("head.cls_logits/Conv")
    assert not policy.quantizes("mask_branch.refine.0.conv/Conv", "float16", "fp8")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "int8"}, "expected float16 or bfloat16 as precision"),
        ({"policy": Policy(int8=("fpn*",))}, r"policy\.int8 is for engines that are built with --int8"),
        (
            {"quantization": "int8", "precision": "float16", "policy": Policy(fp8=("fpn*",))},
            r"policy\.fp8 is for engines",
        ),
        ({"quantization": "int4", "precision": "float16"}, "quantization is 'int4'"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BuildRecipe(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["int8", "fp8"])
@pytest.mark.parametrize("half", [np.float32, np.float16])
def test_weights_come_back_within_a_step_of_their_channel(kind: Quantized, half: type) -> None:
    rng = np.random.default_rng(0)
    sizes = np.array([1.0, 0.01, 1e-9, 30.0], dtype=np.float32)
    values = (rng.standard_normal((4, 8, 3, 3)) * sizes[:, None, None, None]).astype(np.float32)
    codes, scales = weight_codes(values, kind, half)
    assert scales.min() == pytest.approx(LEAST_SCALE)
    assert (scales.astype(half).astype(np.float32) == scales).all()
    error = np.abs(codes.astype(np.float32) * scales[:, None, None, None] - values)
    largest = np.abs(values).reshape(4, -1).max(axis=1)
    step = np.maximum(largest / 127 / 2 if kind == "int8" else largest / 16, LEAST_SCALE)
    assert (error.reshape(4, -1).max(axis=1) <= 1.01 * step).all()


def test_the_pass_is_symmetric_on_inputs_and_weights_share_their_codes(slim_proto: onnx.ModelProto) -> None:
    recipe = recipe_for("int8", ("86",))
    model = ir.from_proto(slim_proto)
    insert_qdq(model, scales_for(slim_proto, recipe), recipe.policy, "float16")
    graph = ir.to_proto(model)
    onnx.checker.check_model(graph, full_check=True)
    values = {entry.name: numpy_helper.to_array(entry) for entry in graph.graph.initializer}
    makers = {name: node for node in graph.graph.node for name in node.output}
    codes: Counter[str] = Counter()
    for node in graph.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not values[node.input[2]].any()
            assert values[node.input[2]].dtype == np.int8
        if node.op_type == "Conv" and makers.get(node.input[1]) is not None:
            codes[makers[node.input[1]].input[0]] += 1
            assert makers[node.input[1]].attribute[0].i == 0  # the axis
            assert makers[node.input[0]].op_type == "DequantizeLinear"
    assert max(codes.values()) == 5  # the levels of a tower
    assert len(asked_convolutions(graph)) == sum(codes.values()) == 90


def test_the_quantised_graph_computes_nearly_what_the_float32_graph_does(small_graph: onnx.ModelProto) -> None:
    recipe = recipe_for("int8", ("86",), int8=("backbone.first*", "head.second*"))
    batch = (np.random.default_rng(0).integers(0, 256, (1, 3, 32, 64), dtype=np.uint8), np.array([[32, 64]], np.int32))
    nodes = chosen_convolutions(ir.from_proto(small_graph), recipe.policy, "float16", "int8")
    assert [node.name for node in nodes] == ["backbone.first/Conv_first", "head.second/Conv_second"]
    scales = Scales("int8", {"pixels": Range(-255, 255), "active": Range(-400, 400)})
    graph = rounded(graph_for_builder(small_graph, recipe, scales))
    feed = dict(zip(INPUTS, batch, strict=True))
    want, have = (
        onnxruntime.InferenceSession(g.SerializeToString(), providers=["CPUExecutionProvider"]).run(["boxes"], feed)[0]
        for g in (small_graph, graph)
    )
    error = np.abs(want - have).max()
    assert 0 < error < 0.03 * np.abs(want).max()


def alone(kind: Quantized, sm: str) -> object:
    return pytest.param(kind, (sm,), marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("kind", "sm"),
    [
        ("int8", ("86", "89", "120")),
        ("fp8", ("89", "120")),
        *(alone("int8", sm) for sm in ("86", "89", "120")),
        *(alone("fp8", sm) for sm in ("89", "120")),
    ],
)
def test_every_asked_convolution_is_in_8_bits_for_every_gpu(
    kind: Quantized, sm: tuple[str, ...], static_onnx: Path, rtx: BuilderLibrary
) -> None:
    proto, recipe = onnx.load(str(static_onnx)), recipe_for(kind, sm)
    graph = graph_for_builder(proto, recipe, scales_for(proto, recipe))
    built = build_plan(graph, [], recipe, rtx)
    asked, found = asked_convolutions(graph), convolutions_of_plan(built.plan)
    assert len(asked) > 20
    assert {name: found[name] for name in asked} == dict.fromkeys(asked, kind)
    assert "half" in found.values()  # predictors and mask convolutions


def test_a_build_that_falls_back_to_half_is_an_error(
    static_onnx: Path, rtx: BuilderLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compute capability 75, with the check of targets taken out: the library says nothing."""
    monkeypatch.setattr("condinst_engines.plan_builder.check_targets", lambda kind, targets: None)
    proto, recipe = onnx.load(str(static_onnx)), recipe_for("int8", ("75",))
    graph = graph_for_builder(proto, recipe, scales_for(proto, recipe))
    with pytest.raises(EngineError, match=r"convolutions that were asked for in 8 bits are not, by the plan's program"):
        build_plan(graph, [], recipe, rtx)


@pytest.mark.parametrize(
    ("kind", "sm", "message"),
    [
        ("int8", ("75", "86"), "--int8 and compute capability 75: .*builds half convolutions without an error"),
        ("fp8", ("86", "89"), "--fp8 and compute capability 86: GPUs below 89"),
    ],
)
def test_gpus_without_a_kind_are_refused(
    kind: Quantized, sm: tuple[str, ...], message: str, rtx: BuilderLibrary
) -> None:
    with pytest.raises(ConfigError, match=message):
        targets_of(recipe_for(kind, sm), rtx)


def test_a_missing_or_half_convolution_is_named() -> None:
    asked = {"a/Conv": "int8", "b/Conv": "int8", "c/Conv": "int8"}
    check_quantized(asked, asked, "plan")
    with pytest.raises(EngineError, match=r"2 of 3 .* by the plan: 1 half, 1 missing; b/Conv, c/Conv"):
        check_quantized({"a/Conv": "int8", "b/Conv": "half"}, asked, "plan")


def test_a_plan_without_a_program_is_an_error() -> None:
    with pytest.raises(EngineError, match="cannot be proved"):
        convolutions_of_plan(b"ptrt" * 100)


def test_the_inspector_of_full_tensorrt_tells_what_layers_read() -> None:
    layers = [
        {"Name": "a/Conv + a/Relu", "Inputs": [{"Format/Datatype": "Int8"}]},
        {"Name": "x", "Metadata": "[ONNX Layer: b/Conv]", "Inputs": [{"Format/Datatype": "FP8 E4M3"}]},
        {"Name": "c/Conv", "Inputs": [{"Format/Datatype": "Half"}]},
    ]
    found = convolutions_of_layers(layers, dict.fromkeys(("a/Conv", "b/Conv", "c/Conv", "d/Conv"), "int8"))
    assert found == {
        "a/Conv": "int8",
        "b/Conv": "fp8",
        "c/Conv": "half or float",
        "d/Conv": "no layer of that name",
    }
