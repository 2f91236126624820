"""The README's Python is run as it stands there."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from condinst_deploy.data.shapes_dataset import generate_shapes
from tests.support.recipes import RECIPE

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
DATA = """
train_annotations = "val.json"
train_images = "val"
val_annotations = "val.json"
val_images = "val"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files that the README's lines read: a recipe, a data set, an image."""
    generate_shapes(tmp_path, "val", 2)
    name = json.loads((tmp_path / "val.json").read_text())["images"][0]["file_name"]
    shutil.copy(tmp_path / "val" / name, tmp_path / "street.jpg")
    recipe = RECIPE.replace("[data]", f"[data]{DATA}").replace("iterations = 100", "iterations = 2")
    (tmp_path / "recipe.toml").write_text(recipe)
    return tmp_path


def test_the_whole_life_of_a_model_is_ten_lines(folder: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="an engine is built without a GPU")
    (block,) = [block for block in BLOCKS if "build_engine" in block]
    assert len([line for line in block.splitlines() if line]) <= 10
    done = subprocess.run([sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"runs/recipe/model.pth", "export/build/model.onnx", "evaluation/report.html"} <= written
    engines = [name for name in written if name.endswith(".engine")]
    assert len(engines) == 1
    assert f"{engines[0]}.json" in written
    assert done.stdout.startswith(str(folder / engines[0]))
    assert done.stdout.endswith("()\n")  # the gate passed: nothing else is written to standard output
    assert done.stdout.count("\n") == 1
