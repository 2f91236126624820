"""A library that is missing is one line with the command that brings it."""

import subprocess
import sys
import tomllib
from importlib import import_module, invalidate_caches
from pathlib import Path

import pytest

from condinst_deploy.support.extras import EXTRAS, INCLUDED, missing_library

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


def test_a_module_that_an_installed_library_lacks_is_not_called_a_missing_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    package = tmp_path / "ray"
    package.mkdir()
    error = ModuleNotFoundError("No module named 'ray.newer'", name="ray.newer")
    (package / "__init__.py").touch()
    assert missing_library(error) == (
        "this needs ray.newer, which the installed ray does not have; it is damaged or of another version:"
        " pip install 'condinst-deploy[ray]' in a new environment"
    )
    (package / "__init__.py").unlink()  # a folder that is called so is no library
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    invalidate_caches()
    assert missing_library(error) == ("this needs ray, which is not installed: pip install 'condinst-deploy[ray]'")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "not installed" in (missing_library(error) or "")


@pytest.mark.parametrize(
    ("name", "wanted", "named"),
    [
        ("torch", "train", "train"),
        ("matplotlib", "train", "train"),
        ("onnx", "rtx", "rtx"),
        ("torch", "export", "export"),
        ("onnxruntime", "rtx", "cpu"),  # which the extra does not bring
        ("ray", "train", "ray"),
        ("torch", None, "torch"),
    ],
)
def test_one_extra_that_brings_all_is_named(name: str, wanted: str | None, named: str) -> None:
    line = missing_library(ModuleNotFoundError(name=name), wanted)
    assert line is not None
    assert f"pip install 'condinst-deploy[{named}]'" in line


def test_what_an_extra_brings_is_what_the_project_says() -> None:
    def brought(extra: str) -> set[str]:
        found: set[str] = set()
        for requirement in PROJECT["optional-dependencies"][extra]:
            if requirement.startswith("condinst-deploy["):
                for each in requirement.partition("[")[2].rstrip("]").split(","):
                    found |= {each, *brought(each)}
        return found

    assert {extra: brought(extra) for extra in INCLUDED} == INCLUDED


@pytest.mark.parametrize(
    ("statement", "extra"),
    [
        ("from condinst_deploy import train", "train"),
        ("import condinst_deploy; condinst_deploy.TrainedModel", "train"),
        ("from condinst_export import export_model", "export"),
        ("from condinst_engines import build_engine; build_engine({onnx!r})", "rtx"),
    ],
)
def test_a_name_that_needs_a_missing_library_says_so_in_python(statement: str, extra: str, slim_onnx: Path) -> None:
    code = f"""
import sys
sys.modules.update(torch=None, torchvision=None, onnx=None)
from condinst_deploy import ConfigError
try:
    {statement.format(onnx=str(slim_onnx))}
except ConfigError as e:
    print(e)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"which is not installed: pip install 'condinst-deploy[{extra}]'" in done.stdout


@pytest.mark.parametrize("name", ["condinst_deploy", "condinst_deploy.serving", "condinst_engines", "condinst_export"])
def test_a_package_lists_its_interface_and_nothing_else(name: str) -> None:
    package = import_module(name)
    assert [each for each in dir(package) if not each.startswith("__")] == sorted(
        each for each in package.__all__ if not each.startswith("__")
    )


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
    extra = "train" if command == "train" else "torch"
    assert f"pip install 'condinst-deploy[{extra}]'" in done.stderr.splitlines()[-1]
