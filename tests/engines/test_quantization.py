"""INT8 and FP8 engines: which convolutions, the Q/DQ pass, real builds with their proof, and what is refused."""

import json
import platform
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image
from typer.testing import CliRunner

from condinst_deploy.contract import INPUTS
from condinst_deploy.contract.engine_manifest import read_manifest
from condinst_deploy.contract.quantization import HeldOutAgreement
from condinst_deploy.errors import ArtifactError, ConfigError, EngineError
from condinst_deploy.model.fixed_slots import SCORE_THRESHOLD
from condinst_engines import BuildOptions, BuildReports
from condinst_engines.build_recipe import BuildRecipe, RtxSettings
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.cli.build_engine import main as build_command
from condinst_engines.engine_builder import build_engine as build_file
from condinst_engines.onnx_input import manifest_of, with_lifted_constants
from condinst_engines.plan_builder import build_plan, graph_for_builder, targets_of
from condinst_engines.precision_policy import Policy, Precision, Quantized
from condinst_engines.profiles import image_profile
from condinst_engines.quantization.calibrate import Request, calibrated
from condinst_engines.quantization.insert import (
    LEAST_SCALE,
    Scales,
    activations,
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
from condinst_engines.quantization.report import (
    FIGURES,
    GroupCost,
    group_of,
    judged,
    ranked,
    sensitivity,
    worst_layers,
    write_report,
)
from condinst_engines.quantization.requests import described_qdq
from condinst_engines.rounding import rounded
from condinst_export.graph_session import holds_fp8
from condinst_export.quantization import u8s8
from condinst_export.quantization.histograms import collected
from condinst_export.quantization.images import ImageSet
from condinst_export.quantization.options import CalibrationOptions
from condinst_export.quantization.thresholds import Range, range_of
from tests.support.models import IMAGES, noise_image

pytestmark = pytest.mark.usefixtures("one_thread")

PROFILE = image_profile((1, 3, 32, 32), (1, 3, 128, 224), (2, 3, 224, 224))
WIDE = Range(-8.0, 8.0)
"""A range for every tensor where accuracy does not matter."""


def recipe_for(kind: Quantized, sm: tuple[str, ...], precision: Precision = "float16", **policy: object) -> BuildRecipe:
    own = Policy(**policy)  # type: ignore[arg-type]
    return BuildRecipe(precision=precision, quantization=kind, rtx=RtxSettings(sm), policy=own)


def scales_for(proto: onnx.ModelProto, recipe: BuildRecipe) -> Scales:
    assert recipe.quantized is not None
    nodes = chosen_convolutions(ir.from_proto(proto), recipe.policy, recipe.precision, recipe.quantized)
    return Scales(recipe.quantized, dict.fromkeys(activations(nodes), WIDE))


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


def test_files_in_8_bits_are_recognised(small_graph: onnx.ModelProto) -> None:
    assert described_qdq(small_graph) == ""
    asymmetric = u8s8.quantized(small_graph, dict.fromkeys(("pixels", "active", "second"), WIDE), ())
    with pytest.raises(EngineError, match="uint8: TensorRT is symmetric"):
        described_qdq(asymmetric)
    symmetric = symmetric_file(small_graph)
    assert described_qdq(symmetric) == "the file has Q/DQ already (6 nodes, 6 of int8)"
    shifted = next(e for e in symmetric.graph.initializer if e.name == "active_zero_point")
    shifted.CopyFrom(numpy_helper.from_array(np.array(3, dtype=np.int8), shifted.name))
    with pytest.raises(EngineError, match="a zero point that is not 0"):
        described_qdq(symmetric)


def symmetric_file(proto: onnx.ModelProto) -> onnx.ModelProto:
    recipe = recipe_for("int8", ("86",), int8=("backbone.first*", "head.second*"))
    model = ir.from_proto(proto)
    insert_qdq(model, scales_for(proto, recipe), recipe.policy, "float16")
    return ir.to_proto(model)


def with_constant_nodes(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph as other tools write it: a Constant node for every initializer."""
    graph = onnx.ModelProto()
    graph.CopyFrom(proto)
    nodes = [
        onnx.helper.make_node("Constant", [], [entry.name], value=entry, name=f"constants/{entry.name}")
        for entry in graph.graph.initializer
    ]
    rest = list(graph.graph.node)
    del graph.graph.initializer[:], graph.graph.node[:]
    graph.graph.node.extend([*nodes, *rest])
    onnx.checker.check_model(graph, full_check=True)
    return graph


def with_constant_zero_points(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with a Constant node for the zero point of every Q/DQ."""
    graph = onnx.ModelProto()
    graph.CopyFrom(proto)
    names = {node.input[2] for node in graph.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    moved = [entry for entry in graph.graph.initializer if entry.name in names]
    for entry in moved:
        constant = onnx.helper.make_node("Constant", [], [entry.name], value=entry, name=f"Constant_{entry.name}")
        graph.graph.node.insert(0, constant)
        graph.graph.initializer.remove(entry)
    return graph


def test_constant_nodes_are_read_as_initializers_are(small_graph: onnx.ModelProto) -> None:
    symmetric = symmetric_file(small_graph)
    constants = with_constant_nodes(symmetric)
    assert described_qdq(constants) == described_qdq(symmetric) == "the file has Q/DQ already (6 nodes, 6 of int8)"
    assert asked_convolutions(constants) == asked_convolutions(symmetric)
    assert set(asked_convolutions(constants).values()) == {"int8"}
    asymmetric = u8s8.quantized(small_graph, dict.fromkeys(("pixels", "active", "second"), WIDE), ())
    with pytest.raises(EngineError, match="uint8: TensorRT is symmetric"):
        described_qdq(with_constant_nodes(asymmetric))
    lifted = with_lifted_constants(constants)
    left = {node.output[0] for node in lifted.graph.node if node.op_type == "Constant"}
    assert left == {"first_weight", "second_weight", "shape"}  # no convolution, Q or DQ reads them
    assert {entry.name for entry in lifted.graph.initializer} == {e.name for e in symmetric.graph.initializer} - left
    assert with_lifted_constants(symmetric) is symmetric
    plain = with_lifted_constants(with_constant_nodes(small_graph))
    policy = Policy(int8=("backbone.first*", "head.second*"))
    assert len(chosen_convolutions(ir.from_proto(plain), policy, "float16", "int8")) == 2


def test_fp8_is_seen_wherever_a_file_keeps_it(small_graph: onnx.ModelProto) -> None:
    recipe = recipe_for("fp8", ("89",), fp8=("backbone.first*", "head.second*"))
    model = ir.from_proto(small_graph)
    insert_qdq(model, scales_for(small_graph, recipe), recipe.policy, "float16")
    fp8 = ir.to_proto(model)
    assert holds_fp8(fp8)
    assert holds_fp8(with_constant_nodes(fp8))
    assert not holds_fp8(with_constant_nodes(symmetric_file(small_graph)))


def test_a_zero_point_that_is_computed_is_refused_as_such(small_graph: onnx.ModelProto) -> None:
    symmetric = symmetric_file(small_graph)
    node = next(node for node in symmetric.graph.node if node.op_type == "QuantizeLinear")
    copied = onnx.helper.make_node("Identity", [node.input[2]], ["computed"], name="copy")
    node.input[2] = "computed"
    symmetric.graph.node.insert(0, copied)
    with pytest.raises(EngineError, match=f"node {node.name} has a zero point that is computed in the graph"):
        described_qdq(symmetric)


def test_without_zero_points_the_type_is_that_of_the_codes(small_graph: onnx.ModelProto) -> None:
    graph = symmetric_file(small_graph)
    for node in graph.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            del node.input[2]
        if node.op_type == "QuantizeLinear":
            node.attribute.append(onnx.helper.make_attribute("output_dtype", onnx.TensorProto.INT8))
    onnx.checker.check_model(graph, full_check=True)
    assert described_qdq(graph) == "the file has Q/DQ already (6 nodes, 6 of int8)"
    assert set(asked_convolutions(graph).values()) == {"int8"}
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear":
            del node.attribute[:]
    with pytest.raises(EngineError, match="uint8: TensorRT is symmetric"):
        described_qdq(graph)


def test_a_file_with_qdq_is_recognised_by_fp16_and_proved(static_onnx: Path, tmp_path: Path) -> None:
    recipe, proto = recipe_for("int8", ("86",)), onnx.load(str(static_onnx))
    model = ir.from_proto(proto)
    insert_qdq(model, scales_for(proto, recipe), recipe.policy, "float16")
    source = tmp_path / "qdq.onnx"
    onnx.save(with_constant_zero_points(ir.to_proto(model)), str(source))
    notes: list[str] = []
    options = BuildOptions(flavour="rtx", sm=("86",), precision="float16", keep_onnx=tmp_path / "kept.onnx")
    path, manifest = build_file(source, tmp_path / "a.engine", options, BuildReports(on_note=notes.append))
    asked = asked_convolutions(onnx.load(str(tmp_path / "kept.onnx")))
    assert set(asked.items()) <= set(convolutions_of_plan(path.read_bytes()).items())
    assert len(asked) > 20
    assert notes[0].startswith("the file has Q/DQ already")
    assert manifest.quantization is None
    again = replace(options, quantization="int8", calibration=tmp_path)
    with pytest.raises(EngineError, match=r"Q/DQ already .*; --int8 quantises float32 files"):
        build_file(source, tmp_path / "b.engine", again)


def noise_folder(path: Path, count: int) -> Path:
    path.mkdir()
    for i in range(count):
        Image.fromarray(noise_image(i, 96, 128)).save(path / f"{i}.png")
    return path


def test_a_file_is_built_and_its_ranges_are_used_again(static_onnx: Path, tmp_path: Path) -> None:
    images = noise_folder(tmp_path / "images", 3)
    options = BuildOptions(flavour="rtx", sm=("89",), quantization="int8", calibration=images, calibration_images=2)
    path, manifest = build_file(static_onnx, tmp_path / "a.engine", options)
    record = manifest.quantization
    assert record is not None
    assert (record.scheme, record.method, record.images, manifest.precision) == ("int8", "mse", 2, "float16")
    assert record.convolutions > 20
    assert record.agreement is not None
    assert record.agreement.images == 1
    assert read_manifest(path) == manifest
    again = replace(options, scales=tmp_path / "a.engine.json", calibration_method="max")
    _, second = build_file(static_onnx, tmp_path / "b.engine", again)
    assert second.quantization is not None
    assert second.quantization.ranges == record.ranges
    assert second.quantization.method == "mse"
    with pytest.raises(ConfigError, match="expected the manifest of an engine built with --fp8"):
        build_file(static_onnx, tmp_path / "c.engine", replace(again, quantization="fp8"))
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"--scales is .*x\.json: the manifest has version"):
        build_file(static_onnx, tmp_path / "c.engine", replace(again, scales=tmp_path / "x.json"))
    text = (tmp_path / "a.engine.json").read_text(encoding="utf-8")
    name, value = next(iter(record.ranges.items()))
    for edited, message in (
        ("-3.5", "range of .* is -3.5; expected a number above 0"),
        ("0", "range of .* is 0; expected a number above 0"),
        ("NaN", "is nan; expected a finite number"),
        (f"{10**400}", "expected a whole number of at most 64 bits"),
        ('"wide"', "is 'wide'; expected a number"),
    ):
        assert f'"{name}": {value!r}' in text
        (tmp_path / "x.json").write_text(text.replace(f'"{name}": {value!r}', f'"{name}": {edited}'))
        with pytest.raises(ArtifactError, match=rf"--scales is .*x\.json: .*{message}"):
            build_file(static_onnx, tmp_path / "c.engine", replace(again, scales=tmp_path / "x.json"))
    proto = onnx.load(str(static_onnx))
    request = Request("int8", CalibrationOptions(images), tmp_path / "x.json")
    wide = replace(record, ranges={**record.ranges, name: 1e30})
    with pytest.raises(ConfigError, match=r"whose range of .* is 1e\+30; a scale in float16 holds 8\.319\d*e\+06"):
        calibrated(proto, manifest_of(proto, static_onnx), request, recipe_for("int8", ("89",)), wide)
    other = onnx.load(str(static_onnx))
    other.doc_string = platform.machine()
    onnx.save(other, str(tmp_path / "other.onnx"))
    with pytest.raises(ConfigError, match=r"of an engine from another ONNX file \(tiny\.onnx\)"):
        build_file(tmp_path / "other.onnx", tmp_path / "c.engine", again)
    assert not (tmp_path / "c.engine").exists()


def test_a_folder_is_checked_before_ranges_are(static_onnx: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    options = BuildOptions(flavour="rtx", quantization="int8", calibration=noise_folder(tmp_path / "one", 1))
    with pytest.raises(ConfigError, match="holds 1 image; expected at least 2"):
        build_file(static_onnx, tmp_path / "a.engine", options, BuildReports(on_note=notes.append))
    assert not [note for note in notes if note.startswith("ranges")]


def test_where_float32_finds_nothing_the_cost_is_not_known(static_onnx: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(static_onnx))
    (threshold,) = [entry for entry in proto.graph.initializer if entry.name == SCORE_THRESHOLD]
    threshold.CopyFrom(numpy_helper.from_array(np.array(0.9999, dtype=np.float32), SCORE_THRESHOLD))
    onnx.save(proto, str(tmp_path / "blind.onnx"))
    notes: list[str] = []
    folder, report = noise_folder(tmp_path / "images", 3), tmp_path / "report"
    options = BuildOptions(flavour="rtx", sm=("89",), quantization="int8", calibration=folder, report=report)
    build_file(tmp_path / "blind.onnx", tmp_path / "a.engine", options, BuildReports(on_note=notes.append))
    assert "float32 finds nothing in the 1 held-out images, so what 8 bits cost is not known" in notes
    assert [note for note in notes if note.startswith("no report")]
    assert not report.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "int8"}, "--int8 needs --calibration DIR"),
        ({"scales": Path("x.json")}, "--scales is for quantised engines"),
        ({"calibration_images": 3}, "--calibration-images is for quantised files"),
        ({"calibration": Path()}, "--calibration is for half and 8-bit engines"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: dict[str, object], message: str, static_onnx: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_file(static_onnx, tmp_path / "x.engine", BuildOptions(flavour="rtx", **options))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def held_out(slim_onnx: Path, slim_proto: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    folder = tmp_path_factory.mktemp("photographs")
    for i, source in enumerate(sorted(IMAGES.iterdir())):
        Image.open(source).convert("RGB").resize((160, 120)).save(folder / f"{i}.png")
    return ImageSet(tuple(sorted(folder.iterdir())), manifest_of(slim_proto, slim_onnx))


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_report_tells_what_8_bits_cost(
    kind: Quantized, slim_proto: onnx.ModelProto, held_out: ImageSet, tmp_path: Path
) -> None:
    recipe = recipe_for(kind, ("89",))
    nodes = chosen_convolutions(ir.from_proto(slim_proto), recipe.policy, "float16", kind)
    histograms = collected(slim_proto, activations(nodes), held_out, "max")
    scales = Scales(kind, {name: range_of(entry, "max", kind) for name, entry in histograms.tensors.items()})

    def simulated(some: Scales) -> onnx.ModelProto:
        return rounded(graph_for_builder(slim_proto, recipe, some))

    found = judged(slim_proto, simulated(scales), held_out)
    assert found.agreement.images == 2
    assert found.agreement.reference > 5
    assert (0.3 if kind == "int8" else 0) < found.agreement.matched_share < 1  # weights made from a seed
    groups = ("backbone.layer4.0.conv1/Conv", "head.cls_tower.0.conv/Conv")
    costs = list(sensitivity(found, groups, scales, simulated, held_out))
    assert [(cost.group, cost.convolutions) for cost in costs] == [("backbone.layer4", 1), ("head.cls_tower.0", 1)]
    assert min(cost.agreement.matched_share for cost in costs) > found.agreement.matched_share
    layers = worst_layers(slim_proto, simulated(scales), held_out)
    assert layers[0]["relative_error"] > 0.001
    page = write_report(tmp_path / "report", kind, found, held_out, layers, costs)
    assert kind in page.read_text(encoding="utf-8")
    figures = json.loads((tmp_path / "report" / FIGURES).read_text(encoding="utf-8"))
    assert figures["agreement"]["matched_share"] == found.agreement.matched_share
    assert set(figures["by_size"]) == {"all", "small", "medium", "large"}
    assert len(figures["sensitivity"]) == 2
    assert figures["worst_layers"] == layers


def test_groups_are_ranked_by_what_they_cost() -> None:
    assert group_of("head.box_tower.0.conv/Conv_3") == "head.box_tower.0"
    assert group_of("backbone.layer3.4.conv2/Conv") == "backbone.layer3"
    assert group_of("fpn.lateral.0/Conv") == "fpn.lateral"
    shares = {"a": (0.99, 0.999), "b": (0.9, 0.98), "c": (0.99, 0.9)}
    costs = [GroupCost(n, 1, HeldOutAgreement(1, 9, 9, share, 0.9, iou)) for n, (share, iou) in shares.items()]
    assert [cost.group for cost in ranked(costs)] == ["b", "c", "a"]
    assert str(costs[1]) == "b (1 convolutions) alone: 90.0% matched, median mask IoU 0.9800"


def test_the_command_writes_the_report_with_the_cost_of_each_group(static_onnx: Path, tmp_path: Path) -> None:
    images, report = tmp_path / "photographs", tmp_path / "report"
    images.mkdir()
    for i, source in enumerate((*sorted(IMAGES.iterdir()), *sorted(IMAGES.iterdir()))):
        Image.open(source).convert("RGB").resize((160 - 8 * i, 120)).save(images / f"{i}.png")
    options = ["--int8", "--sm", "86", "--calibration", images, "--report", report, "--sensitivity"]
    words = ["--onnx", static_onnx, "--out", tmp_path / "a.engine", "--flavour", "rtx", *options]
    result = CliRunner().invoke(build_command, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert f"report: {report / 'report.html'}" in " ".join(result.stderr.split())
    figures = json.loads((report / FIGURES).read_text(encoding="utf-8"))
    record = read_manifest(tmp_path / "a.engine").quantization
    assert record is not None
    assert record.agreement is not None
    assert figures["agreement"]["matched_share"] == record.agreement.matched_share
    groups = [cost["group"] for cost in figures["sensitivity"]]
    assert sum(cost["convolutions"] for cost in figures["sensitivity"]) == record.convolutions
    assert "backbone.layer2" in groups
    assert len(set(groups)) == len(groups)
    lines = [line.strip() for line in result.stderr.splitlines() if " alone: " in line]
    assert [line.split(" ", 1)[0] for line in lines] == groups  # the most expensive first, as in the file
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "float32" in page
    assert "int8" in page
