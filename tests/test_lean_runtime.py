"""The wheel with the extras `cpu` and `eval` alone, in `.lean` (`make lean-env`): it predicts, draws, evaluates."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support import small_coco

ENVIRONMENT = Path(os.environ.get("CONDINST_LEAN_ENV", Path(__file__).parents[1] / ".lean"))
MOST_BYTES = 350 * 10**6

pytestmark = pytest.mark.skipif(not (ENVIRONMENT / "bin/condinst-predict").exists(), reason="no .lean: make lean-env")


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    program = [str(ENVIRONMENT / "bin" / command[0]), *map(str, command[1:])]
    return subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_it_is_small() -> None:
    sizes = [path.lstat().st_size for path in ENVIRONMENT.rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(sizes) < MOST_BYTES


def test_neither_pytorch_nor_the_exporters_libraries_are_there(tmp_path: Path) -> None:
    for name in ("torch", "onnx", "onnxscript", "triton", "matplotlib"):
        assert run("python", "-c", f"import {name}", cwd=tmp_path).returncode == 1


def test_an_exported_file_runs_and_pytorch_is_not_missed(slim_onnx: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from condinst_deploy import Predictor; import numpy as np;"
        f" found = Predictor({str(slim_onnx)!r})([np.zeros((64, 96, 3), np.uint8)]);"
        " print(len(found), 'torch' in sys.modules)"
    )
    done = run("python", "-c", code, cwd=tmp_path)
    assert done.stdout.split() == ["1", "False"], done.stderr


def test_it_predicts_and_draws(slim_onnx: Path, tmp_path: Path) -> None:
    _, images = small_coco.written(tmp_path)
    done = run("condinst-predict", images, "--model", slim_onnx, "--out", "out", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/detections.json").read_text())
    assert list((tmp_path / "out/overlays").glob("*.jpg"))


def test_it_evaluates_results_and_models(slim_onnx: Path, tmp_path: Path) -> None:
    annotations, images = small_coco.written(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(small_coco.results()))
    common = ("condinst-eval", "--annotations", annotations, "--images", images, "--json")
    done = run(*common, "--results", "results.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    fast = run(*common, "--results", "results.json", "--fast", "--out", "fast", cwd=tmp_path)
    assert fast.returncode == 0, fast.stderr
    assert (tmp_path / "evaluation/report.html").exists()


def test_what_needs_pytorch_says_so_in_one_line(slim_checkpoint: Path, tmp_path: Path) -> None:
    _, images = small_coco.written(tmp_path)
    done = run("condinst-predict", images, "--model", slim_checkpoint, cwd=tmp_path)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "pip install 'condinst-deploy[torch]'" in done.stderr


@pytest.mark.parametrize("command", ["export", "train", "build-engine", "inspect", "compare", "benchmark"])
def test_every_other_command_has_its_help_or_one_line(command: str, tmp_path: Path) -> None:
    done = run(f"condinst-{command}", "--help", cwd=tmp_path)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or "pip install" in done.stderr
