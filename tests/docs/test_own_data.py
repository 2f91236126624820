"""The guide from own data to a server: its recipe and its commands, on a small set of two classes."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from condinst_deploy.data.shapes_dataset import generate_shapes

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "own_data.md"
COMMANDS = Path(sys.executable).parent

SHORTER = {"iterations = 2000": "iterations = 4", "warmup_iterations = 100": "warmup_iterations = 1"}
"""Values that the test uses instead, so that it is short."""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", GUIDE.read_text(), flags=re.M | re.S)


def own_set(folder: Path, name: Literal["train", "val"], count: int) -> None:
    """Shapes under two names of their own; stars are nobody's."""
    annotations = generate_shapes(folder, name, count)
    content = json.loads(annotations.read_text())
    names = {"ellipse": "nut", "rectangle": "plate"}
    content["categories"] = [c | {"name": names[c["name"]]} for c in content["categories"] if c["name"] in names]
    kept = {category["id"] for category in content["categories"]}
    content["annotations"] = [a for a in content["annotations"] if a["category_id"] in kept]
    annotations.write_text(json.dumps(content))


@pytest.mark.slow
def test_the_commands_lead_to_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_set(tmp_path, "train", 12)
    own_set(tmp_path, "val", 6)
    shutil.copy(ROOT / "demo" / "shapes_slim.pth", tmp_path / "weights.pth")
    (recipe,) = blocks("toml")
    for long, short in SHORTER.items():
        assert recipe.count(long) == 1
        recipe = recipe.replace(long, short)
    (tmp_path / "mine.toml").write_text(recipe)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 7
    for command in commands:
        name, *arguments = shlex.split(command)
        done = subprocess.run(
            [COMMANDS / name, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        if "--check" in arguments:
            assert [path.name for path in (tmp_path / "runs" / "mine").iterdir()] == ["examples.jpg"]
            assert "4 iterations, each image 1." in done.stdout
    for path in ("runs/mine/best.pth", "evaluation/report.html", "found/detections.json", "repository/README.md"):
        assert (tmp_path / path).is_file(), path
    monkeypatch.setenv("MODEL", str(tmp_path / "mine.onnx"))
    image = next(path for path in sorted((tmp_path / "val").iterdir()) if path.suffix in (".png", ".jpg"))
    with TestClient(runpy.run_path(str(ROOT / "examples" / "serve.py"))["app"]) as client, Image.open(image) as opened:
        response = client.post("/predict", content=image.read_bytes())
        assert response.status_code == 200
        entries = response.json()
        assert all(entry["segmentation"]["size"] == [opened.height, opened.width] for entry in entries)


def test_the_recipe_of_the_guide_can_be_read(tmp_path: Path) -> None:
    from condinst_deploy.training.recipe import load_recipe
    from condinst_deploy.training.recipe_names import sizes_named

    (recipe,) = blocks("toml")
    (tmp_path / "mine.toml").write_text(recipe)
    assert load_recipe(str(tmp_path / "mine.toml")).schedule.batch_size == 4
    assert sizes_named(str(tmp_path / "mine.toml")) == (False, False)


def test_every_command_of_the_guide_has_the_options_that_it_is_given() -> None:
    environment = os.environ | {"COLUMNS": "200"}
    for block in (*blocks("sh"), *blocks("")):
        for line in block.splitlines():
            name, *arguments = shlex.split(line, comments=True) or [""]
            if not name.startswith("condinst-"):
                continue
            shown = subprocess.run(
                [COMMANDS / name, "--help"], capture_output=True, text=True, check=True, env=environment
            ).stdout
            for option in (each for each in arguments if each.startswith("--")):
                assert option in shown, f"{name} {option}"
