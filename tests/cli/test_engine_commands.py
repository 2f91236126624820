"""`condinst-build-engine`, `condinst-inspect` and `condinst-compare`, as a user runs them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image
from typer.testing import CliRunner, Result

from condinst_deploy.contract.engine_manifest import manifest_path, read_engine, write_engine
from condinst_deploy.contract.manifest import MANIFEST_KEY
from condinst_deploy.contract.quantization import HeldOutAgreement, Quantization
from condinst_engines.cli.build_engine import main as build_engine
from condinst_engines.cli.compare import main as compare
from condinst_engines.cli.inspect import main as inspect
from condinst_engines.mixed_precision import converted
from condinst_engines.onnx_input import manifest_of as manifest_of_metadata
from tests.support.graphs import small_network
from tests.support.models import SLIM, manifest_of, noise_image

SMALL_PROFILE = "1x3x32x32:1x3x64x96:2x3x64x96"

QUANTIZED = Quantization(
    "int8", "mse", "cal[ib]", 80, "0" * 64, 90, ("mask_branch*",), {}, HeldOutAgreement(20, 200, 190, 0.925, 0.9, 0.99)
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory in which condinst-export has left one small file."""
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path / "export/build/small.onnx")
    return tmp_path


def write_small(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(small_network(replace(manifest_of(SLIM), class_names=("[bold]ant[/]", "bee", "sea cow"))), str(path))


def run(command: object, *arguments: str | Path) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])  # type: ignore[arg-type]
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def error_of(result: Result, status: int = 1) -> str:
    assert result.exit_code == status
    assert result.stderr.count("error:") == 1
    assert "Traceback" not in result.stderr
    return result.stderr[result.stderr.index("error:") :]


def test_fp16_without_a_name_builds_the_only_exported_file(folder: Path) -> None:
    result = run(build_engine, "--fp16")
    path = folder / "engines/build/small.rtx.fp16.sm86-89-120.engine"
    assert result.stdout == f"{path}\n"
    assert "precision: float16, as asked; layers by the typed network:" in result.stderr
    assert "in float16" in result.stderr
    assert "profile 0: images from 1x3x32x32 to 8x3x224x224, tuned for 8x3x128x224" in result.stderr
    assert read_engine(path)[1].precision == "float16"


def test_json_is_all_that_standard_output_holds(folder: Path) -> None:
    result = run(
        build_engine, "--bf16", "--sm", "80, sm86", "--shapes", SMALL_PROFILE, "--shapes", SMALL_PROFILE, "--json"
    )
    values = json.loads(result.stdout)
    assert values["path"] == str(folder / "engines/build/small.rtx.bf16.sm80-86.engine")
    assert (values["precision"], values["targets"], len(values["profiles"])) == ("bfloat16", ["80", "86"], 2)


def test_options_come_before_the_recipe(folder: Path) -> None:
    Path("own.toml").write_text(
        f'precision = "float16"\nprofiles = ["{SMALL_PROFILE}"]\n[rtx]\nsm = ["80"]\n'
        '[policy]\nfloat32 = ["backbone*"]\n'
    )
    result = run(build_engine, "--recipe", "own.toml", "--sm", "89", "--out", "x.engine", "--json")
    values = json.loads(result.stdout)
    assert (values["precision"], values["targets"]) == ("float16", ["89"])
    assert values["found"]["layers"]["float16"] > 0  # the head; the backbone was kept in float32
    assert values["profiles"][0]["images"]["max"] == [2, 3, 64, 96]


def test_a_recipe_that_keeps_everything_in_float32_is_no_float16_engine(folder: Path) -> None:
    Path("own.toml").write_text('precision = "float16"\n[policy]\nfloat32 = ["backbone*", "head*"]\n')
    assert "float16 was asked for" in error_of(run(build_engine, "--recipe", "own.toml"))
    assert not Path("engines").exists()


def test_the_log_and_the_graph_are_kept_where_asked(folder: Path) -> None:
    run(build_engine, "--fp16", "--log", "logs/build.txt", "--keep-onnx", "kept.onnx")
    assert "[VERBOSE]" in Path("logs/build.txt").read_text()
    assert any(entry.data_type == onnx.TensorProto.FLOAT16 for entry in onnx.load("kept.onnx").graph.initializer)


def test_ranges_are_said_kept_and_shown(folder: Path) -> None:
    images = folder / "calibration"
    images.mkdir()
    for seed in range(2):
        Image.fromarray(noise_image(seed, 40, 60)).save(images / f"{seed}.png")
    result = run(
        build_engine, "--fp16", "--sm", "86", "--calibration", images, "--keep-policy", "p.toml", "--out", "x.engine"
    )
    assert result.exit_code == 0, result.stderr
    assert "ranges: largest magnitude" in result.stderr
    assert "images (calibration), limit 1.638e+04; handled: nothing" in result.stderr
    assert 'precision = "float16"' in Path("p.toml").read_text()
    ranges = read_engine(Path("x.engine"))[1].ranges
    assert ranges is not None
    assert ranges.source == "calibration"
    shown = run(inspect, "x.engine").stdout
    assert f"SHA-256 of the images {ranges.images_sha256}" in shown
    assert "largest magnitudes: " in shown, shown
    assert "backbone.first" in shown, shown
    run(build_engine, "--sm", "86", "--out", "y.engine")
    assert "ranges: not checked" in run(inspect, "y.engine").stdout


@pytest.mark.parametrize(
    ("options", "reason", "status"),
    [
        (["--fp16", "--calibration", "none"], "no folder at none; expected a folder of images in --calibration", 1),
        (["--fp16", "--calibration", "export"], "has no images", 1),
        (["--fp16", "--keep-policy", "x.json"], "ending in .toml", 2),
        (["--fp16", "--bf16"], "give one of --fp32, --fp16 and --bf16", 2),
        (["--onnx", "none.onnx"], "no model at none.onnx", 1),
        (["--out", "x.plan"], "ending in .engine", 2),
        (["--flavour", "vanilla"], "expected tensorrt or rtx", 2),
        (["--recipe", "h100"], "no recipe 'h100'", 2),
        (["--shapes", "1x3x33x33"], "expected MIN:OPT:MAX", 2),
        (["--sm", "90"], "builds for 75, 80", 2),
        (["--optimization-level", "9"], "expected a whole number from 0 to 5", 2),
        (["--hardware-compatible", "--flavour", "rtx"], "are for --flavour tensorrt", 2),
        (["--timing-cache", "x", "--flavour", "rtx"], "--timing-cache does nothing", 2),
        (
            ["--log", "export/build/small.onnx"],
            "is an exported file (.onnx) by its name; expected the name of a text",
            2,
        ),
        (["--keep-onnx", "export/build/small.onnx"], "are the same file", 2),
        (["--log", "export/build"], "export/build is a folder; expected the name of a text file for --log", 2),
        (["--recipe", "own.toml", "--keep-policy", "own.toml"], "--recipe and --keep-policy are the same file", 2),
        (["--log", "model.pth"], "model.pth is a checkpoint (.pth) by its name; expected the name of a text file", 2),
        (["--timing-cache", "r.toml"], "r.toml is a recipe (.toml) by its name; expected the name of a file", 2),
    ],
)
def test_a_mistake_is_one_clear_line(folder: Path, options: list[str], reason: str, status: int) -> None:
    Path("own.toml").write_text('precision = "float16"\n')
    assert reason in error_of(run(build_engine, *options), status)
    assert not Path("engines").exists()


def test_without_an_exported_file_the_command_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "run condinst-export --weights model.pth" in error_of(run(build_engine, "--fp16"), 2)


def test_ctrl_c_ends_with_130_and_leaves_nothing(slim_onnx: Path, tmp_path: Path) -> None:
    # a shell that runs the tests in the background lets its children ignore SIGINT
    handler = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{handler}; from condinst_engines.cli.build_engine import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "--onnx", str(slim_onnx), "--fp16"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "TensorRT flavour" in process.stderr.readline()  # what follows takes seconds
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=300)
    assert process.returncode == 130, rest
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_an_engine_is_described_and_checked(folder: Path) -> None:
    path = Path(run(build_engine, "--fp16", "--shapes", SMALL_PROFILE).stdout.strip())
    result = run(inspect, path)
    assert result.exit_code == 0
    for words in (
        "TensorRT engine",
        "flavour rtx",
        "86, 89, 120",
        "in float16",
        "profile 0: images 1x3x32x32:1x3x64x96:2x3x64x96",
        "output boxes: float32",
        "3 classes: [bold]ant[/], bee",
        "plugins: none",
    ):
        assert words in result.stdout, words
    values = json.loads(run(inspect, path, "--json").stdout)
    assert values["engine"]["model"]["class_names"][2] == "sea cow"
    plan, manifest = read_engine(path)
    write_engine(path, plan, replace(manifest, quantization=replace(QUANTIZED, kept_float=())))
    described = run(inspect, path).stdout
    assert "90 convolutions in 8 bits (int8), ranges by mse on 80 images (cal[ib])" in described
    assert "kept in float32" not in described
    path.write_bytes(b"something else")
    assert "is not the plan" in error_of(run(inspect, path))
    manifest_path(path).unlink()
    assert "has no manifest" in error_of(run(inspect, path))


def test_an_exported_file_is_described(slim_onnx: Path) -> None:
    result = run(inspect, slim_onnx)
    for words in (
        "ONNX file",
        "precision float32",
        "condinst::DynamicMaskHead",
        "mask_logits: float32",
        "NMS at IoU 0.6",
    ):
        assert words in result.stdout, words
    assert "SelectInstances/iou" in json.loads(run(inspect, slim_onnx, "--json").stdout)["nodes"]


def test_the_8_bits_of_an_exported_file_are_described(slim_onnx: Path, tmp_path: Path) -> None:
    proto = onnx.load(str(slim_onnx))
    manifest = replace(manifest_of_metadata(proto, slim_onnx), quantization=QUANTIZED)
    (entry,) = [each for each in proto.metadata_props if each.key == MANIFEST_KEY]
    entry.value = manifest.to_json()
    onnx.save(proto, str(tmp_path / "x.int8.onnx"))
    shown = run(inspect, tmp_path / "x.int8.onnx").stdout
    for words in (
        f"90 convolutions in 8 bits (int8), ranges by mse on 80 images (cal[ib]); SHA-256 of the images {'0' * 64}",
        "8 bits beside float32: 92.5% of float32's 200 detections matched on 20 held-out images",
        "kept in float32: mask_branch*",
    ):
        assert words in shown, shown


def test_a_file_of_another_tool_is_described_all_the_same(folder: Path) -> None:
    proto = onnx.load("export/build/small.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, "other.onnx")
    result = run(inspect, "other.onnx")
    assert result.exit_code == 0
    for words in ("precision unknown", "boxes: float32", "no manifest of this toolkit"):
        assert words in result.stdout, words
    assert json.loads(run(inspect, "other.onnx", "--json").stdout)["manifest"] is None


@pytest.mark.parametrize("text", [b"second_weight", b"head.second", b"class_names"])
def test_text_that_is_not_utf_8_is_said(text: bytes, folder: Path) -> None:
    content = Path("export/build/small.onnx").read_bytes()
    assert text in content
    Path("other.onnx").write_bytes(content.replace(text, b"\xff" + text[1:]))
    assert "expected text in UTF-8" in error_of(run(inspect, "other.onnx"))


@pytest.mark.parametrize("command", [inspect, compare])
def test_a_graph_that_is_none_is_said(command: object, folder: Path) -> None:
    source = folder / "export/build/small.onnx"
    proto = onnx.load(str(source))
    proto.graph.initializer[0].data_type = 99
    onnx.save(proto, "other.onnx")
    Image.new("RGB", (8, 8)).save("0.png")
    others: list[str | Path] = [source, "--images", "0.png"] if command is compare else []
    assert "is no valid ONNX graph (" in error_of(run(command, "other.onnx", *others))


def _cycle(proto: onnx.ModelProto) -> None:
    node = next(node for node in proto.graph.node if node.input)
    node.input[0] = proto.graph.node[-1].output[0]


def _calls_itself(proto: onnx.ModelProto) -> None:
    function = helper.make_function("own", "F", ["x"], ["y"], [], [helper.make_opsetid("own", 1)])
    function.node.append(helper.make_node("F", ["x"], ["y"], domain="own"))
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("own", 1))


def _sequence(proto: onnx.ModelProto) -> None:
    name = proto.graph.output[0].name
    proto.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info(name, onnx.TensorProto.FLOAT, None))


def _loop_without_results(proto: onnx.ModelProto) -> None:
    body = helper.make_graph([], "body", [], [])
    proto.graph.node.insert(0, helper.make_node("Loop", ["", ""], ["result"], "forever", body=body))


GRAPHS = {
    "cycle": (_cycle, "topologically sorted"),
    "function that calls itself": (_calls_itself, "must not be recursive"),
    "sequence as output": (_sequence, "is sequence; expected a tensor of numbers"),
    "loop without results": (_loop_without_results, "node forever (Loop) has 1 outputs, and a body with 0"),
}


@pytest.mark.parametrize(("change", "reason"), GRAPHS.values(), ids=GRAPHS)
def test_a_graph_that_cannot_be_compared_says_why(
    change: Callable[[onnx.ModelProto], None], reason: str, folder: Path
) -> None:
    source = folder / "export/build/small.onnx"
    proto = onnx.load(str(source))
    change(proto)
    onnx.save(proto, "other.onnx")
    Image.new("RGB", (64, 48)).save("image.png")
    assert reason in error_of(run(compare, source, "other.onnx", "--images", "image.png"))


def test_a_list_of_layers_that_is_cut_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run(build_engine, "--fp16").stdout.strip()
    layers = [{"Name": f"layer {i}", "Outputs": [{"Format/Datatype": "Half"}]} for i in range(40)]
    monkeypatch.setattr("condinst_engines.inspection.layers_of", lambda *_: layers)
    found = run(inspect, path).stdout
    assert "30 of 40 layers shown" in found
    assert "layers by the engine inspector: 40 in float16" in found


def test_a_checkpoint_is_described(slim_checkpoint: Path) -> None:
    result = run(inspect, slim_checkpoint)
    assert "checkpoint" in result.stdout
    assert "ResNet-50, 3 classes" in result.stdout


@pytest.mark.parametrize(
    ("name", "reason", "status"),
    [
        ("x.txt", "a text file by its name; expected a model", 2),
        ("nosuch", "nosuch; expected a model", 1),
        ("x.onnx", "no model at", 1),
        ("x.engine", "no engine", 1),
    ],
)
def test_a_file_that_cannot_be_described_is_said(name: str, reason: str, status: int, tmp_path: Path) -> None:
    assert reason in error_of(run(inspect, tmp_path / name), status)


@pytest.mark.parametrize("name", ["model.pth", "model.engine"])
def test_a_checkpoint_or_an_engine_is_not_called_a_damaged_graph(name: str, folder: Path) -> None:
    (folder / name).write_bytes(b"content")
    result = run(compare, "model.onnx", name, "--images", "0.png")
    assert f"B is {name}, which is " in error_of(result, 2)


def test_two_files_are_compared_on_images(folder: Path) -> None:
    source = folder / "export/build/small.onnx"
    onnx.save(converted(onnx.load(str(source)), "float16"), "half.onnx")
    for seed in range(2):
        Image.fromarray(noise_image(seed, 40, 60)).save(f"{seed}.png")
    result = run(compare, source, "half.onnx", "--images", "*.png", "--top", "3")
    assert result.exit_code == 0, result.output
    assert "2 images" in " ".join(result.stdout.split())  # the title is wrapped where the folder's name is long
    values = json.loads(run(compare, source, "half.onnx", "--images", "0.png", "--json").stdout)
    assert values["detections"] is None  # the small network has boxes alone
    assert values["tensors"][0]["name"] == "boxes"
    errors = {value["name"]: value for value in values["tensors"]}
    assert 0 < errors["first"]["relative"] < 1e-2
    assert errors["first"]["node"] == "backbone.first/Conv_first"


def test_a_file_that_overflows_ends_with_1(folder: Path) -> None:
    source = folder / "export/build/small.onnx"
    proto = onnx.load(str(source))
    for entry in list(proto.graph.initializer):
        weight = onnx.numpy_helper.to_array(entry) * np.float32(10_000)
        entry.CopyFrom(onnx.numpy_helper.from_array(weight.astype(np.float32), entry.name))
    onnx.save(converted(proto, "float16"), "half.onnx")
    Image.fromarray(noise_image(0, 40, 60)).save("0.png")
    result = run(compare, source, "half.onnx", "--images", "0.png")
    assert result.exit_code == 1
    assert "not finite: " in result.stderr


def test_images_that_are_missing_are_said(folder: Path) -> None:
    source = folder / "export/build/small.onnx"
    assert "none.png" in error_of(run(compare, source, source, "--images", "none.png"))


@pytest.mark.parametrize("command", [build_engine, inspect, compare])
def test_help_says_what_the_command_is_for(command: object) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.stdout
