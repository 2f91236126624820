"""A pipe, a device or a link to itself in place of each file that a command reads: one line, and no wait."""

import os
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

INPUTS: dict[str, tuple[str, str, str]] = {
    "predict": ("condinst_deploy.cli.predict", "X.onnx", "i.png --model X.onnx"),
    "thresholds": (
        "condinst_deploy.cli.predict",
        "X.json",
        "i.png --model m.onnx --score-threshold best --thresholds X.json",
    ),
    "annotations": ("condinst_deploy.cli.evaluate", "X.json", "--annotations X.json --results r.json"),
    "results": ("condinst_deploy.cli.evaluate", "X.json", "--annotations a.json --results X.json"),
    "recipe": ("condinst_deploy.cli.train", "X.toml", "--recipe X.toml"),
    "checkpoint": ("condinst_engines.cli.inspect", "X.pth", "X.pth"),
    "weights": ("condinst_export.cli", "X.pth", "--weights X.pth"),
    "class names": ("condinst_export.cli", "X.txt", "--weights m.pth --class-names X.txt"),
    "exported file": ("condinst_engines.cli.build_engine", "X.onnx", "--onnx X.onnx --flavour rtx"),
    "engine recipe": ("condinst_engines.cli.build_engine", "X.toml", "--recipe X.toml --onnx m.onnx --flavour rtx"),
    "first of two": ("condinst_engines.cli.compare", "X.onnx", "X.onnx m.onnx --images i.png"),
    "engine": ("condinst_engines.cli.inspect", "X.engine", "X.engine"),
    "manifest": ("condinst_engines.cli.inspect", "m.engine.json", "m.engine"),
    "list of images": ("condinst_deploy.cli.batch", "X.txt", "X.txt --model m.onnx --out o --format coco"),
    "served model": ("condinst_deploy.cli.triton_repo", "X.onnx", "--model X.onnx --out o"),
}

SPECIAL: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
}


@pytest.fixture(autouse=True)
def _no_wait() -> Iterator[None]:
    def waited(*_: Any) -> None:
        raise AssertionError("the command waits for a pipe, or reads a device")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("name", INPUTS)
def test_it_is_refused_in_one_line(name: str, special: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, file, arguments = INPUTS[name]
    monkeypatch.chdir(tmp_path)
    for other in ("i.png", "m.onnx", "m.pth", "m.engine", "a.json", "r.json"):
        Path(other).write_text("[]")
    Path("m.pth").write_bytes(b"PK")  # what a checkpoint begins with
    SPECIAL[special](Path(file))
    result = CliRunner().invoke(import_module(module).main, arguments.split())
    assert result.exit_code in (1, 2), result.exception
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert file in line
    assert {path.name for path in tmp_path.iterdir()} == {
        *("i.png", "m.onnx", "m.pth", "m.engine", "a.json", "r.json", file)
    }
