"""Every command and every script of docs/batch.md, as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.batch_runs import COMMAND, command_environment, write_images

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_thread")]

GUIDE = Path(__file__).parents[2] / "docs" / "batch.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def place(
    small_onnx: Path, s3: Any, ray: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str], str]:
    """A folder with a model and images, which are in a bucket, too; the environment; and a cluster's address."""
    folder = tmp_path_factory.mktemp("guide")
    (folder / "model.onnx").write_bytes(small_onnx.read_bytes())
    paths = write_images(folder / "images", 6, damaged=[2], side=64)
    s3.mkdir("bucket")
    s3.put([str(path) for path in paths], [f"bucket/images/{path.name}" for path in paths])
    return folder, command_environment(), ray.get_runtime_context().gcs_address


def test_every_command_of_the_guide_runs(place: tuple[Path, dict[str, str], str]) -> None:
    folder, environment, address = place
    commands = [line for block in blocks("sh") for line in block.splitlines() if line]
    assert len(commands) >= 5
    for line in commands:
        name, *arguments = shlex.split(line.replace("HEAD:6379", address))
        assert name == "condinst-batch"
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert re.match(r"6 images, 1 of them with an error, \d+ detections in 1 new part; 1 of 1 part: ", done.stdout)
    assert len(list((folder / "coco").glob("part-*.json"))) == 1


def test_every_script_of_the_guide_runs(place: tuple[Path, dict[str, str], str]) -> None:
    folder, _, _ = place
    reading, dataset = blocks("python")
    if not (folder / "detections").exists():
        command = [*COMMAND, "images/", "--model", "model.onnx", "--out", "detections/"]
        subprocess.run(command, cwd=folder, env=command_environment(), check=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"OMP_NUM_THREADS": "1"}
    for script, expected in ((reading, 6), (dataset, 1)):
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stdout.splitlines() if "images/" in line or "class" in line or "path" in line]
        assert len(lines) == expected
