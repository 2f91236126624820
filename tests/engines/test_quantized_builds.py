"""Engines in 8 bits from a file and a folder of images: ranges, options, the report and the command."""

import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from PIL import Image
from typer.testing import CliRunner

from condinst_deploy.contract.engine_manifest import read_manifest
from condinst_deploy.contract.quantization import HeldOutAgreement
from condinst_deploy.errors import ArtifactError, ConfigError, EngineError
from condinst_deploy.model.fixed_slots import SCORE_THRESHOLD
from condinst_engines import BuildOptions, BuildReports
from condinst_engines.build_engine_file import build_engine as build_file
from condinst_engines.cli.build_engine import main as build_command
from condinst_engines.onnx_input import manifest_of
from condinst_engines.plan_builder import graph_for_builder
from condinst_engines.precision_policy import Quantized
from condinst_engines.quantization.calibrate import Request, calibrated
from condinst_engines.quantization.cost_report import (
    METRICS,
    GroupCost,
    group_of,
    judged,
    ranked,
    sensitivity,
    worst_layers,
    write_report,
)
from condinst_engines.quantization.insert import (
    Scales,
    activations,
    chosen_convolutions,
    insert_qdq,
)
from condinst_engines.quantization.proof import (
    asked_convolutions,
    convolutions_of_plan,
)
from condinst_engines.rounding import rounded
from condinst_export.quantization.calibration_images import ImageSet
from condinst_export.quantization.calibration_options import CalibrationOptions
from condinst_export.quantization.histograms import collected
from condinst_export.quantization.thresholds import range_of
from tests.support.models import IMAGES, noise_image
from tests.support.quantized_graphs import recipe_for, scales_for, with_constant_zero_points

pytestmark = pytest.mark.usefixtures("one_thread")


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
    again = replace(options, quantization="int8", calibration=noise_folder(tmp_path / "images", 2))
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
    assert "float32 finds nothing in 1 held-out image, so what 8 bits cost is not known" in notes
    assert any(note.startswith("judged on 1 image only") for note in notes)
    assert [note for note in notes if note.startswith("no report")]
    assert not report.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quantization": "int8"}, "--int8 needs --calibration DIR"),
        ({"scales": Path("x.json")}, "--scales is for quantised engines"),
        ({"calibration_images": 3}, "--calibration-images is for quantised files; give --int8 or --fp8, too"),
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
    metrics = json.loads((tmp_path / "report" / METRICS).read_text(encoding="utf-8"))
    assert metrics["agreement"]["matched_share"] == found.agreement.matched_share
    assert set(metrics["by_size"]) == {"all", "small", "medium", "large"}
    assert len(metrics["sensitivity"]) == 2
    assert metrics["worst_layers"] == layers


def test_groups_are_ranked_by_what_they_cost() -> None:
    assert group_of("head.box_tower.0.conv/Conv_3") == "head.box_tower.0"
    assert group_of("backbone.layer3.4.conv2/Conv") == "backbone.layer3"
    assert group_of("fpn.lateral.0/Conv") == "fpn.lateral"
    shares = {"a": (0.99, 0.999), "b": (0.9, 0.98), "c": (0.99, 0.9)}
    costs = [GroupCost(n, 1, HeldOutAgreement(1, 9, 9, share, 0.9, iou)) for n, (share, iou) in shares.items()]
    assert [cost.group for cost in ranked(costs)] == ["b", "c", "a"]
    assert str(costs[1]) == "b (1 convolution) alone: 90.0% matched, median mask IoU 0.9800"


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
    metrics = json.loads((report / METRICS).read_text(encoding="utf-8"))
    record = read_manifest(tmp_path / "a.engine").quantization
    assert record is not None
    assert record.agreement is not None
    assert metrics["agreement"]["matched_share"] == record.agreement.matched_share
    groups = [cost["group"] for cost in metrics["sensitivity"]]
    assert sum(cost["convolutions"] for cost in metrics["sensitivity"]) == record.convolutions
    assert "backbone.layer2" in groups
    assert len(set(groups)) == len(groups)
    lines = [line.strip() for line in result.stderr.splitlines() if " alone: " in line]
    assert [line.split(" ", 1)[0] for line in lines] == groups  # the most expensive first, as in the file
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "float32" in page
    assert "int8" in page
