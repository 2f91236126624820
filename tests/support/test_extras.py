"""A library that is missing is one line with the command that brings it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from condinst_deploy.support.extras import EXTRAS, missing_library

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_extra_exists() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(EXTRAS.values()) <= extras.keys()


def test_the_core_names_no_heavy_library() -> None:
    core = {requirement.partition(">")[0] for requirement in PROJECT["dependencies"]}
    assert core == {"msgspec", "numpy", "pillow", "rich", "simplejpeg", "typer"}


@pytest.mark.parametrize(
    ("name", "extra"),
    [("torch.nn", "torch"), ("pycocotools.mask", "eval"), ("onnxruntime", "cpu"), ("onnx_ir", "export")],
)
def test_what_is_missing_names_its_extra(name: str, extra: str) -> None:
    line = missing_library(ModuleNotFoundError(f"No module named {name!r}", name=name))
    assert line is not None
    assert f"pip install 'condinst-deploy[{extra}]'" in line


def test_a_module_of_our_own_and_a_broken_library_are_defects() -> None:
    assert missing_library(ModuleNotFoundError("x", name="condinst_deploy.nowhere")) is None
    assert missing_library(ImportError("a symbol is missing", name="torch")) is None


@pytest.mark.parametrize("command", ["predict", "evaluate", "train"])
def test_a_command_without_pytorch_ends_with_one_line(command: str, slim_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    arguments = {
        "predict": ["a.png", "--model", str(slim_checkpoint)],
        "evaluate": ["--model", str(slim_checkpoint), "--annotations", "a.json", "--images", "."],
        "train": ["--recipe", "shapes_slim"],
    }
    (tmp_path / "a.json").write_text(
        '{"images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}], "categories": [{"id": 1, "name": "x"}],'
        ' "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0,'
        ' "segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}]}'
    )
    code = (
        "import sys; sys.modules.update(torch=None, torchvision=None);"
        f" sys.argv = {[command, *arguments[command]]!r}; from condinst_deploy.commands import {command}; {command}()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "pip install 'condinst-deploy[torch]'" in done.stderr.splitlines()[-1]
