"""The exit status of every command for a path where nothing is, and for a folder in place of a file.

A missing file is an error of the work, status 1; a folder where a file is expected, or the other way round, is wrong
usage, status 2. Both are found before a model is loaded: the models here have the first bytes of one and no more.
"""

import re
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.support import small_coco
from tests.support.commands import COMMANDS, function_of, module_of


class Use(NamedTuple):
    """A path on a command line.

    Attributes:
        parameter: the parameter of the command's function.
        arguments: the command line; the path is X, with an ending or without.
        wrong_kind: status with a folder in place of the file, or a file in place of the folder.
    """

    parameter: str
    arguments: str
    wrong_kind: int = 2

    @property
    def path(self) -> Path:
        """The path itself."""
        return next(Path(text) for text in self.arguments.split() if text.startswith("X"))


NO_IMAGES = 1
"""Images may lie in a folder of any name; one without images is an error of the work."""

TRAIN = "--recipe condinst_r50_1x"
DATA = (
    "--train-annotations instances.json --train-images pictures --val-annotations instances.json --val-images pictures"
)
BUILD = "--onnx m.onnx --flavour rtx --out o.engine"
BATCH = "--out o --format coco"

USES: dict[str, tuple[Use, ...]] = {
    "condinst-batch": (
        Use("source", f"X --model m.onnx {BATCH}"),
        Use("source", f"X.txt --model m.onnx {BATCH}", NO_IMAGES),
        Use("source", f"X.parquet --model m.onnx {BATCH}", NO_IMAGES),
        Use("source", f"X.png --model m.onnx {BATCH}", NO_IMAGES),
        Use("model", f"pictures --model X.onnx {BATCH}"),
        Use("model", f"pictures --model X {BATCH}"),
    ),
    "condinst-benchmark": (
        Use("model", "--model X.onnx"),
        Use("model", "--model X"),
        Use("against", "--model m.onnx --against X.pth"),
        Use("images", "X.png --model m.onnx", NO_IMAGES),
    ),
    "condinst-build-engine": (
        Use("onnx", "--onnx X.onnx --flavour rtx"),
        Use("onnx", "--onnx X --flavour rtx"),
        Use("recipe", f"--recipe X.toml {BUILD}"),
        Use("calibration", f"--calibration X --fp16 {BUILD}"),
        Use("calibration", f"--calibration X --int8 {BUILD}"),
        Use("scales", f"--scales X.json --int8 --calibration pictures {BUILD}"),
    ),
    "condinst-client": (Use("images", "http://127.0.0.1:9 X.png", NO_IMAGES),),
    "condinst-compare": (
        Use("first", "X.onnx m.onnx --images i.png"),
        Use("second", "m.onnx X --images i.png"),
        Use("images", "m.onnx m.onnx --images X.png", NO_IMAGES),
    ),
    "condinst-doctor": (Use("file", "X.onnx"), Use("file", "X")),
    "condinst-eval": (
        Use("annotations", "--annotations X.json --results r.json"),
        Use("results", "--annotations instances.json --results X.json"),
        Use("model", "--annotations instances.json --model X.onnx --images pictures"),
        Use("model", "--annotations instances.json --model X --images pictures"),
        Use("images", "--annotations instances.json --model m.onnx --images X"),
    ),
    "condinst-export": (
        Use("weights", "--weights X.pth"),
        Use("weights", "--weights X"),
        Use("class_names", "--weights m.pth --class-names X.txt"),
        Use("calibration", "--weights m.pth --int8 --calibration X"),
    ),
    "condinst-inspect": tuple(Use("file", name) for name in ("X.onnx", "X.pth", "X.engine", "X")),
    "condinst-predict": (
        Use("images", "X.png --model m.onnx", NO_IMAGES),
        Use("model", "i.png --model X.plan"),
        Use("model", "i.png --model X"),
        Use("thresholds", "i.png --model m.onnx --score-threshold best --thresholds X.json"),
    ),
    "condinst-train": (
        Use("recipe", "--recipe X.toml"),
        Use("train_annotations", f"{TRAIN} {DATA.replace('train-annotations instances', 'train-annotations X')}"),
        Use("train_images", f"{TRAIN} {DATA.replace('train-images pictures', 'train-images X')}"),
        Use("val_annotations", f"{TRAIN} {DATA.replace('val-annotations instances', 'val-annotations X')}"),
        Use("val_images", f"{TRAIN} {DATA.replace('val-images pictures', 'val-images X')}"),
        Use("weights", f"{TRAIN} --weights X.pth"),
        Use("backbone", f"{TRAIN} --backbone X"),
    ),
    "condinst-triton-repo": (Use("model", "--model X.onnx --out o"), Use("model", "--model X --out o")),
}

WRITTEN = {"out", "overlays", "plot", "report", "keep_policy", "keep_onnx", "log", "timing_cache"}
"""Parameters of what a command writes; a timing cache is made where there is none."""

TAKES_A_FOLDER = {"source", "calibration", "images", "train_images", "val_images"}
"""Parameters whose path without an ending is a folder."""

EACH = [pytest.param(script, use, id=f"{script} {use.arguments}") for script, uses in USES.items() for use in uses]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with every other file of the command lines."""
    monkeypatch.chdir(tmp_path)
    small_coco.written(tmp_path)
    Image.new("RGB", (64, 48)).save("i.png")
    Path("r.json").write_text("[]")
    Path("m.onnx").write_bytes(b"\x08\x0a\x12\x01a")
    Path("m.pth").write_bytes(b"PK\x03\x04m/data.pkl")
    return tmp_path


def error_of(script: str, use: Use, status: int) -> str:
    """The one line of a command that ends with a status, names the path and makes no file."""
    before = sorted(Path().rglob("*"))
    done = CliRunner().invoke(import_module(module_of(COMMANDS[script])).main, use.arguments.split())
    assert (done.exit_code, done.stdout) == (status, ""), done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(rf"[ /]{re.escape(str(use.path))}\b", line)
    assert sorted(Path().rglob("*")) == before
    return line


@pytest.mark.parametrize(("script", "use"), EACH)
def test_a_path_where_nothing_is_ends_with_one(script: str, use: Use, folder: Path) -> None:
    assert "Errno" not in error_of(script, use, 1)


@pytest.mark.parametrize(("script", "use"), EACH)
def test_a_folder_in_place_of_a_file_or_a_file_in_place_of_a_folder_ends_with_two(
    script: str, use: Use, folder: Path
) -> None:
    if use.parameter in TAKES_A_FOLDER and not use.path.suffix:
        use.path.write_text("text")
    else:
        use.path.mkdir()
    error_of(script, use, use.wrong_kind)


@pytest.mark.parametrize("script", COMMANDS)
def test_every_path_that_a_command_reads_has_a_case(script: str) -> None:
    paths = {name for name, one in signature(function_of(script)).parameters.items() if "Path" in str(one.annotation)}
    assert paths - WRITTEN <= {use.parameter for use in USES[script]}
