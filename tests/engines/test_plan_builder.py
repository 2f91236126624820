"""Real builds with NVIDIA's builder, without a GPU; where the model does not matter, of a small graph."""

import io
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from condinst_deploy.contract.engine_manifest import EngineTensor
from condinst_deploy.errors import ConfigError, EngineError
from condinst_engines.build_recipe import BuildRecipe, RtxSettings, TensorrtSettings
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.builder_log import BuilderLog
from condinst_engines.plan_builder import (
    BuiltEngine,
    Surroundings,
    build_plan,
    graph_for_builder,
    targets_of,
    timing_cache_of,
)
from condinst_engines.precision_policy import Policy
from condinst_engines.profiles import image_profile
from condinst_engines.typed_network import check_types, parsed_network
from tests.support.models import SLIM_KINDS, SlimFiles

SERVER = image_profile((1, 3, 320, 320), (1, 3, 800, 1344), (8, 3, 1344, 1344))
SMALL = image_profile((1, 3, 32, 32), (1, 3, 64, 96), (2, 3, 64, 96))
FP16 = BuildRecipe(precision="float16")


def build(
    proto: onnx.ModelProto, recipe: BuildRecipe, library: BuilderLibrary, surroundings: Surroundings | None = None
) -> BuiltEngine:
    return build_plan(graph_for_builder(proto, recipe), [SMALL], recipe, library, surroundings)


def test_a_dynamic_float16_file_builds_for_batch_1_to_8_and_sides_320_to_1344(
    slim_proto: onnx.ModelProto, rtx: BuilderLibrary
) -> None:
    shares: list[float] = []
    recipe = replace(FP16, rtx=RtxSettings(("120", "86", "89")))
    graph = graph_for_builder(slim_proto, recipe)
    profiles = [SERVER, image_profile((1, 3, 32, 32), (4, 3, 320, 320), (4, 3, 640, 640))]
    built = build_plan(graph, profiles, recipe, rtx, Surroundings(on_progress=lambda share, _: shares.append(share)))
    assert len(built.plan) > 1_000_000
    assert (built.targets, len(built.profiles)) == (("86", "89", "120"), 2)
    assert built.found.source == "typed network"
    assert built.found.layers["float16"] > 500
    assert set(built.found.layers) == {"float16", "float32"}
    assert built.tensors[-1] == EngineTensor("mask_logits", "output", "float16", (-1, 100, -1, -1))
    assert shares == sorted(shares)
    assert 0 < shares[len(shares) // 2] < shares[-1] <= 1


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("kind", SLIM_KINDS)
def test_every_kind_of_model_builds(kind: str, precision: Any, slim_files: SlimFiles, rtx: BuilderLibrary) -> None:
    proto, recipe = onnx.load(str(slim_files(kind)[1])), BuildRecipe(precision=precision)
    built = build_plan(graph_for_builder(proto, recipe), [SERVER], recipe, rtx)
    assert built.found.layers[precision] > 500
    assert ("float16" in built.found.layers) is (precision == "float16")


def test_a_static_bfloat16_file_builds_without_profiles(static_onnx: Path, rtx: BuilderLibrary) -> None:
    recipe = BuildRecipe(precision="bfloat16")
    built = build_plan(graph_for_builder(onnx.load(str(static_onnx)), recipe), [], recipe, rtx)
    assert set(built.found.layers) == {"bfloat16", "float32"}
    assert built.tensors[0].shape == (1, 3, 128, 224)
    assert built.tensors[-1] == EngineTensor("mask_logits", "output", "float32", (1, 5, 16, 28))


def test_a_float32_engine_has_no_half_layers(small_graph: onnx.ModelProto, rtx: BuilderLibrary) -> None:
    built = build(small_graph, BuildRecipe(), rtx)
    assert set(built.found.layers) == {"float32"}


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_the_precision_that_was_asked_for_is_found(
    small_graph: onnx.ModelProto, rtx: BuilderLibrary, precision: Any
) -> None:
    built = build(small_graph, BuildRecipe(precision=precision), rtx)
    assert built.found.layers[precision] >= 3


def test_a_network_of_another_precision_than_the_graphs_is_refused(
    small_graph: onnx.ModelProto, rtx: BuilderLibrary
) -> None:
    log = BuilderLog(rtx.trt)
    builder = rtx.trt.Builder(log.logger)
    full = parsed_network(rtx, builder, small_graph.SerializeToString(), log)
    check_types(full, small_graph)
    with pytest.raises(EngineError, match=r"tensors did not get the precision.*first is FLOAT"):
        check_types(full, graph_for_builder(small_graph, FP16))


def test_a_network_without_the_graphs_tensors_is_refused(small_graph: onnx.ModelProto, rtx: BuilderLibrary) -> None:
    log = BuilderLog(rtx.trt)
    full = parsed_network(rtx, rtx.trt.Builder(log.logger), small_graph.SerializeToString(), log)
    other = graph_for_builder(small_graph, FP16)
    for node in other.graph.node:
        for names in (node.input, node.output):
            names[:] = [f"other_{name}" if name not in initializers(other) else name for name in names]
    for value in (*other.graph.input, *other.graph.output):
        value.name = f"other_{value.name}"
    with pytest.raises(EngineError, match="none of the tensors that were to be of half precision"):
        check_types(full, other)


@pytest.mark.parametrize(("given", "asked"), [("float32", "float16"), ("float16", "float32"), ("bfloat16", "float16")])
def test_a_graph_of_another_precision_than_asked_for_is_not_built(
    small_graph: onnx.ModelProto, rtx: BuilderLibrary, given: Any, asked: Any
) -> None:
    graph = graph_for_builder(small_graph, BuildRecipe(precision=given))
    with pytest.raises(EngineError, match=rf"{asked} was asked for.*typed network.*in float32.*no engine was written"):
        build_plan(graph, [SMALL], BuildRecipe(precision=asked), rtx)


def initializers(proto: onnx.ModelProto) -> set[str]:
    return {entry.name for entry in proto.graph.initializer}


def test_a_recipe_can_keep_layers_in_float32(small_graph: onnx.ModelProto, rtx: BuilderLibrary) -> None:
    plain = build(small_graph, FP16, rtx).found.layers
    kept = build(small_graph, replace(FP16, policy=Policy(float32=("head*",))), rtx).found.layers
    assert kept["float16"] < plain["float16"]


def test_a_node_that_the_parser_does_not_know_is_named(rtx: BuilderLibrary) -> None:
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["x"], ["y"], name="the_odd_one", domain="elsewhere")],
        "unknown",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("elsewhere", 1)]
    log = BuilderLog(rtx.trt)
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    with pytest.raises(EngineError, match=r"node the_odd_one \(Frobnicate\)"):
        parsed_network(rtx, rtx.trt.Builder(log.logger), proto.SerializeToString(), log)


@pytest.mark.parametrize("content", [b"", b"no ONNX at all"])
def test_what_is_not_a_graph_is_refused(content: bytes, rtx: BuilderLibrary) -> None:
    log = BuilderLog(rtx.trt)
    with pytest.raises(EngineError, match="parser"):
        parsed_network(rtx, rtx.trt.Builder(log.logger), content, log)


def test_a_profile_that_the_graph_contradicts_is_an_error_with_the_builders_words(
    small_graph: onnx.ModelProto, rtx: BuilderLibrary
) -> None:
    wrong = {name: replace(shapes, min=shapes.max, max=shapes.min) for name, shapes in SMALL.items()}
    with pytest.raises(EngineError, match=r"refuses profile 0.*MIN<=OPT<=MAX"):
        build_plan(small_graph, [wrong], BuildRecipe(), rtx)


def test_a_dynamic_file_without_a_profile_is_an_error(small_graph: onnx.ModelProto, rtx: BuilderLibrary) -> None:
    with pytest.raises(EngineError, match="no optimization profile"):
        build_plan(small_graph, [], BuildRecipe(), rtx)


@pytest.mark.parametrize("sm", [("90",), ("86", "100"), ("12345",), ("x",), ()])
def test_a_gpu_that_the_builder_does_not_build_for_is_refused(
    small_graph: onnx.ModelProto, rtx: BuilderLibrary, sm: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match=r"builds for 75, 80, 86, 89, 120.*--flavour tensorrt"):
        build(small_graph, replace(FP16, rtx=RtxSettings(sm)), rtx)


def test_bfloat16_is_refused_for_gpus_that_have_none(small_graph: onnx.ModelProto, rtx: BuilderLibrary) -> None:
    with pytest.raises(ConfigError, match="no bfloat16; use --fp16"):
        build(small_graph, BuildRecipe(precision="bfloat16", rtx=RtxSettings(("75", "86"))), rtx)
    assert build(small_graph, replace(FP16, rtx=RtxSettings(("75",))), rtx).targets == ("75",)


def test_too_small_a_workspace_is_named(small_graph: onnx.ModelProto, rtx: BuilderLibrary) -> None:
    with pytest.raises(EngineError, match=r"workspace is limited to 1e-06 GiB"):
        build(small_graph, replace(FP16, workspace_gb=1e-6), rtx)
    build(small_graph, replace(FP16, workspace_gb=1, optimization_level=0), rtx)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU the builder can do it")
@pytest.mark.parametrize("option", ["refit", "strip_weights"])
def test_refitting_says_what_it_needs(small_graph: onnx.ModelProto, rtx: BuilderLibrary, option: str) -> None:
    with pytest.raises(EngineError, match="needs a GPU in the building machine"):
        build(small_graph, replace(FP16, **{option: True}), rtx)  # type: ignore[arg-type]


def test_a_timing_cache_is_refused_where_it_does_nothing(
    small_graph: onnx.ModelProto, rtx: BuilderLibrary, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--timing-cache does nothing"):
        build(small_graph, FP16, rtx, Surroundings(timing_cache=tmp_path / "cache"))


def test_ctrl_c_stops_the_builder_at_its_next_step(small_graph: onnx.ModelProto, rtx: BuilderLibrary) -> None:
    pressed: list[str] = []

    def press(share: float, phase: str) -> None:
        if not pressed:
            pressed.append(phase)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        build(small_graph, FP16, rtx, Surroundings(on_progress=press))
    assert build(small_graph, FP16, rtx).plan  # and the next build is not disturbed


def test_the_log_takes_everything_that_the_builder_says(small_graph: onnx.ModelProto, rtx: BuilderLibrary) -> None:
    log = io.StringIO()
    build(small_graph, FP16, rtx, Surroundings(log=log))
    assert "[VERBOSE]" in log.getvalue()


class AsTensorrt:
    """TensorRT for RTX behind the other builder's name: 11's API is the same, so the calls of that builder run."""

    def __init__(self, rtx: BuilderLibrary) -> None:
        self.library = BuilderLibrary("tensorrt", rtx.trt)


@pytest.fixture
def as_tensorrt(rtx: BuilderLibrary) -> BuilderLibrary:
    return AsTensorrt(rtx).library


def test_the_timing_cache_of_the_other_builder_is_written_and_read(
    small_graph: onnx.ModelProto, as_tensorrt: BuilderLibrary, tmp_path: Path
) -> None:
    surroundings = Surroundings(timing_cache=tmp_path / "cache")
    for _ in range(2):
        with pytest.warns(DeprecationWarning, match="no-ops in TensorRT-RTX"):
            built = build(small_graph, FP16, as_tensorrt, surroundings)
        assert built.timings
        (tmp_path / "cache").write_bytes(built.timings)


def test_the_other_builders_compatibility_reaches_the_builder(
    small_graph: onnx.ModelProto, as_tensorrt: BuilderLibrary
) -> None:
    built = build(small_graph, replace(FP16, tensorrt=TensorrtSettings(hardware_compatible=True)), as_tensorrt)
    assert any("HardwareCompatibility" in warning for warning in built.warnings)
    with pytest.raises(EngineError, match="nvinfer_lean"):
        build(small_graph, replace(FP16, tensorrt=TensorrtSettings(version_compatible=True)), as_tensorrt)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it builds")
def test_the_other_builder_says_that_it_needs_the_gpu(
    small_graph: onnx.ModelProto, rtx: BuilderLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BuilderLibrary, "builds_ahead", False)
    with pytest.raises(EngineError, match=r"builds on the GPU that the engine is for.*--flavour rtx"):
        build(small_graph, FP16, BuilderLibrary("tensorrt", rtx.trt))


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (BuildRecipe(precision="bfloat16"), "has no bfloat16; use --fp16"),
        (replace(FP16, tensorrt=TensorrtSettings(hardware_compatible=True)), "from Ampere"),
    ],
)
def test_what_turing_has_not_is_refused_by_the_other_builder_too(
    rtx: BuilderLibrary, monkeypatch: pytest.MonkeyPatch, recipe: BuildRecipe, reason: str
) -> None:
    monkeypatch.setattr(BuilderLibrary, "builds_ahead", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert targets_of(FP16, BuilderLibrary("tensorrt", rtx.trt)) == ("75",)
    with pytest.raises(ConfigError, match=reason):
        targets_of(recipe, BuilderLibrary("tensorrt", rtx.trt))


@pytest.mark.parametrize("engine_has", ["Float", "Half"])
def test_where_a_gpu_can_load_the_plan_the_inspectors_word_counts(
    small_graph: onnx.ModelProto, rtx: BuilderLibrary, monkeypatch: pytest.MonkeyPatch, engine_has: str
) -> None:
    layers = [{"Name": "conv", "Outputs": [{"Format/Datatype": engine_has}]}]
    monkeypatch.setattr("condinst_engines.plan_builder.layers_of", lambda *_, **__: layers)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    if engine_has == "Half":
        found = build(small_graph, FP16, rtx).found
        assert (found.source, found.layers) == ("engine inspector", {"float16": 1})
    else:
        with pytest.raises(EngineError, match="float16 was asked for, and the layers by the engine inspector"):
            build(small_graph, FP16, rtx)


def test_a_timing_cache_that_the_library_refuses_is_said(rtx: BuilderLibrary, tmp_path: Path) -> None:
    class Config:
        def create_timing_cache(self, _: bytes) -> None:
            return None

    with pytest.raises(EngineError, match="cannot be used; name another file"):
        timing_cache_of(Config(), BuilderLibrary("tensorrt", rtx.trt), tmp_path / "cache")
