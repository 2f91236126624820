"""Arguments are validated before PyTorch is imported, which takes seconds."""

import subprocess
import sys
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
    assert e.code == 1, e
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
    ],
)
def test_a_file_that_is_not_there_is_reported_before_the_backends_are_imported(
    module: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    for name in ("a.png", "m.onnx"):
        (tmp_path / name).touch()
    done = python(RUN.format(module=module, arguments=["command", *arguments]), tmp_path)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stdout == "[]\n"
