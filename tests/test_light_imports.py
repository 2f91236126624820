"""Arguments are validated before PyTorch is imported, which takes seconds."""

import ast
import subprocess
import sys
from collections.abc import Set
from inspect import getmembers, isclass
from pathlib import Path

import pytest

import condinst_deploy
from condinst_deploy import errors

CHECKED = """
import sys
{statement}
print([name for name in ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "msgspec") if name in sys.modules])
"""
RUN = """
sys.argv = {arguments!r}
from {module} import main
try:
    main()
except SystemExit as e:
    assert e.code == {status}, e
"""


def python(statement: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", CHECKED.format(statement=statement)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)


def test_every_error_is_offered_by_the_package() -> None:
    tree = {name for name, _ in getmembers(errors, lambda one: isclass(one) and issubclass(one, Exception))}
    assert tree <= set(condinst_deploy.__all__)
    assert all(getattr(condinst_deploy, name) is getattr(errors, name) for name in tree)


def test_what_a_script_catches_is_imported_without_the_backends(tmp_path: Path) -> None:
    names = ", ".join(name for name in condinst_deploy.__all__ if name.endswith("Error"))
    assert python(f"from condinst_deploy import {names}, Predictor", tmp_path).stdout == "[]\n"


def test_the_engines_runtime_is_imported_without_pytorch_and_onnx_runtime(tmp_path: Path) -> None:
    """`tests/test_engine_environment.py` runs it where they are not installed; it is slow to make."""
    modules = ("tensorrt.backend", "cuda.mask_runs", "gpu_uploads", "onnxruntime_cuda", "predictor")
    names = ", ".join(f"condinst_deploy.runtime.{name}" for name in modules)
    assert python(f"import {names}", tmp_path).stdout == "[]\n"


@pytest.mark.parametrize(
    "statement",
    [
        "from condinst_deploy import TrainOptions, EvaluationOptions; TrainOptions(), EvaluationOptions()",
        "from condinst_export import ExportOptions; ExportOptions()",
        "import condinst_engines",
        "import condinst_deploy.cli.train, condinst_deploy.cli.evaluate, condinst_deploy.cli.benchmark",
        "import condinst_export.cli, condinst_engines.cli.build_engine",
    ],
)
def test_options_and_commands_are_imported_without_the_backends(statement: str, tmp_path: Path) -> None:
    assert python(statement, tmp_path).stdout == "[]\n"


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("condinst_deploy.cli.predict", ["--model", "a.onnx", "a.png"], "no model at a.onnx"),
        ("condinst_deploy.cli.predict", ["--model", "a.pth", "a.png"], "no checkpoint at a.pth"),
        ("condinst_deploy.cli.predict", ["--model", "a.engine", "a.png"], "no engine at a.engine"),
        ("condinst_deploy.cli.predict", ["--model", "a.pth", "b.png"], "no image at b.png"),
        ("condinst_deploy.cli.batch", ["b", "--model", "a.pth", "--out", "c"], "/a.pth: give the path"),
        (
            "condinst_deploy.cli.batch",
            ["b", "--model", "m.onnx", "--out", "c", "--format", "coco"],
            "/b; expected an image, a folder",
        ),
        ("condinst_deploy.cli.evaluate", ["--model", "a.pth", "--annotations", "b", "--images", "c"], "at a.pth"),
        ("condinst_deploy.cli.train", ["--recipe", "shapes_slim", "--weights", "a.pth"], "no checkpoint at a.pth"),
        ("condinst_export.cli", ["--weights", "a.pth"], "no checkpoint at a.pth"),
        ("condinst_engines.cli.inspect", ["a.onnx"], "no model at a.onnx"),
        ("condinst_deploy.cli.train", ["--recipe", "mine.toml"], "no recipe at mine.toml"),
        (
            "condinst_export.cli",
            ["--weights", "m.pth", "--out", "a.png/x.onnx"],
            "a.png is a file, not a folder",
        ),
    ],
)
def test_a_file_that_is_not_there_is_reported_before_the_backends_are_imported(
    module: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    refused_early(module, arguments, 1, message, tmp_path)


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        ("condinst_deploy.cli.predict", ["--model", "m.pth", "a.png", "--device", "gpu"], "device 'gpu' is unknown"),
        ("condinst_deploy.cli.predict", ["--model", "m.pth", "a.png", "--max-detections", "0"], "max_detections is 0"),
        ("condinst_deploy.cli.batch", ["a.png", "--model", "m.onnx", "--out", "c", "--device", "gpu"], "device 'gpu'"),
        ("condinst_deploy.cli.benchmark", ["--model", "m.pth", "--device", "gpu"], "device 'gpu' is unknown"),
        ("condinst_deploy.cli.train", ["--recipe", "shapes"], "no recipe 'shapes'"),
        ("condinst_deploy.cli.train", ["--recipe", "shapes_slim", "--device", "gpu"], "device 'gpu' is unknown"),
        ("condinst_export.cli", ["--weights", "m.pth", "--int8"], "--int8 needs --calibration DIR"),
        ("condinst_export.cli", ["--weights", "m.pth", "--max-detections", "0"], "max_detections is 0"),
        ("condinst_export.cli", ["--weights", "m.pth", "--score-threshold", "7"], "score_threshold is 7"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_before_the_backends_are_imported(
    module: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    refused_early(module, arguments, 2, message, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--onnx", "m.onnx", "--int8"], 2, "--int8 needs --calibration DIR"),
        (["--onnx", "m.onnx", "--fp16", "--sensitivity"], 2, "--sensitivity is for quantised engines"),
        (["--onnx", "m.onnx", "--optimization-level", "9"], 2, "optimization_level is 9"),
        (["--onnx", "m.onnx", "--out", "a.png"], 2, "expected a name ending in .engine"),
        (["--onnx", "a.onnx"], 1, "no model at a.onnx"),
    ],
)
def test_an_engine_that_cannot_be_built_is_refused_before_pytorch_is_imported(
    arguments: list[str], status: int, message: str, tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")  # the builder: its name and abilities decide which options there are
    build, needed = "condinst_engines.cli.build_engine", {"tensorrt_rtx", "msgspec"}
    refused_early(build, [*arguments, "--flavour", "rtx"], status, message, tmp_path, needed)


def refused_early(
    module: str, arguments: list[str], status: int, message: str, folder: Path, needed: Set[str] = frozenset()
) -> None:
    """Run a command that is refused before it imports other libraries than it needs to know its options."""
    for name in ("a.png", "m.onnx"):
        (folder / name).touch()
    (folder / "m.pth").write_bytes(b"PK\x03\x04")  # how a checkpoint begins
    done = python(RUN.format(module=module, arguments=["command", *arguments], status=status), folder)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert set(ast.literal_eval(done.stdout)) <= needed
