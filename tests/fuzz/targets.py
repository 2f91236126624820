"""Targets of the fuzzer: commands and functions that read a kind of file, and the conditions that must then hold."""

import json
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import typer
from typer.testing import CliRunner

from condinst_deploy.errors import CondInstError
from tests.fuzz.inputs import CONFIG, Base

MOST_TEXT = 20_000
"""Characters of all messages of one command."""

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters of a terminal, apart from tabs and line breaks."""

FORGED = re.compile(r"^error: forged", re.MULTILINE)

RESULTS = ("detections.json", "images.json")
"""Files that a prediction writes also when it skipped images."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of an input.

    Attributes:
        accepted: nothing was refused.
        faults: what must not happen; empty: the input was taken or refused as it should be.
    """

    accepted: bool
    faults: tuple[str, ...] = ()

    def __add__(self, other: "Outcome") -> "Outcome":
        return Outcome(self.accepted and other.accepted, self.faults + other.faults)


def run_input(kind: str, folder: Path, base: Base) -> Outcome:
    """Use the files of an input as a user would; outputs go into `folder/out`."""
    return USES[kind](folder, base)


def _command(app: typer.Typer, arguments: list[str | Path], out: Path | None = None) -> Outcome:
    """Run a command in this process, and check status, messages and files."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return Outcome(False, (_place(result.exception),))
    faults = []
    text = result.stderr + result.stdout
    if result.exit_code not in (0, 1, 2):
        faults.append(f"status {result.exit_code}")
    if result.exit_code and not re.search(r"^(error|skipped): ", result.stderr, re.MULTILINE):
        faults.append(f"status {result.exit_code} without a message: {result.stderr[-200:]!r}")
    if "memory is not enough" in text:
        faults.append("memory")
    if len(result.stderr) > MOST_TEXT:
        faults.append(f"{len(result.stderr)} characters of messages")
    if CONTROL.search(text) or FORGED.search(text):
        faults.append(f"text of a file is obeyed: {text[-300:]!r}")
    if out is not None:
        skipped = "skipped: " in result.stderr and "error: " not in result.stderr
        faults += _file_faults(out, bool(result.exit_code) and not skipped)
    return Outcome(result.exit_code == 0, tuple(faults))


def _function(work: Callable[[], Any]) -> Outcome:
    """Call a function; it returns or raises an error of ours."""
    try:
        work()
    except CondInstError as e:
        text = str(e)
        if len(text) > MOST_TEXT:
            return Outcome(False, (f"{len(text)} characters in a message",))
        return Outcome(False)
    except Exception as e:
        return Outcome(False, (_place(e),))
    return Outcome(True)


def _place(error: BaseException) -> str:
    """The kind of an error, and where it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-6:]))
    return f"traceback: {type(error).__name__}: {str(error)[:200]} at {where}"


def _file_faults(out: Path, failed: bool) -> list[str]:
    """Files that must not be there after a command."""
    faults = []
    for path in sorted(out.rglob("*")) if out.exists() else []:
        if path.name.endswith(".partial"):
            faults.append(f"left behind: {path.name}")
        elif path.suffix == ".json":
            if failed and path.name in (*RESULTS, "figures.json"):
                faults.append(f"{path.name} after an error")
            try:
                json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
            except ValueError as e:
                faults.append(f"{path.name} is no strict JSON: {e}")
        elif failed and path.suffix in (".html", ".jpg", ".onnx"):
            faults.append(f"{path.name} after an error")
    return faults


def _no_constant(name: str) -> float:
    raise ValueError(name)


def _predict(folder: Path, model: Path, image: Path, *options: str | Path) -> Outcome:
    from condinst_deploy.cli.predict import main

    out = folder / "out"
    return _command(main, [image, "--model", model, "--out", out, "--device", "cpu", *options], out)


def _inspect(path: Path) -> Outcome:
    from condinst_engines.cli.inspect import main

    outcome = _command(main, [path])
    return outcome + _command(main, [path, "--json"]) if outcome.accepted else outcome


@contextmanager
def _kept_session(base: Base) -> Iterator[None]:
    """Keep the session of the valid model, where the model is not what is tried: making it is most of the time."""
    from condinst_deploy.runtime import onnxruntime_backend

    opened = onnxruntime_backend.opened_session

    def kept(content: bytes, *others: Any) -> Any:
        if content != base.onnx.read_bytes():
            return opened(content, *others)
        if content not in _sessions:
            _sessions[content] = opened(content, *others)
        return _sessions[content]

    with patch.object(onnxruntime_backend, "opened_session", kept):
        yield


_sessions: dict[bytes, Any] = {}


def _image(folder: Path, base: Base) -> Outcome:
    (path,) = (path for path in folder.iterdir() if path.is_file())
    with _kept_session(base):
        return _predict(folder, base.onnx, path)


def _checkpoint(folder: Path, base: Base) -> Outcome:
    outcome = _inspect(folder / "m.pth")
    if outcome.accepted:
        outcome += _predict(folder, folder / "m.pth", base.image)
    return outcome


def _onnx(folder: Path, base: Base) -> Outcome:
    return _inspect(folder / "m.onnx") + _predict(folder, folder / "m.onnx", base.image)


def _engine(folder: Path, _base: Base) -> Outcome:
    return _inspect(folder / "m.engine")


def _recipe(folder: Path, _base: Base) -> Outcome:
    from condinst_deploy.training.recipe import load_recipe
    from condinst_engines.build_recipe import load_recipe as load_build_recipe

    training = _function(lambda: load_recipe(str(folder / "r.toml")))
    return training + _function(lambda: load_build_recipe(str(folder / "e.toml")))


def _evaluate(folder: Path, annotations: Path, results: Path) -> Outcome:
    from condinst_deploy.cli.evaluate import main

    out = folder / "out"
    return _command(main, ["--annotations", annotations, "--results", results, "--out", out], out)


def _coco(folder: Path, base: Base) -> Outcome:
    from condinst_deploy.data.analysis import analyse
    from condinst_deploy.data.coco import CocoDataset

    def train_on() -> None:
        data = CocoDataset(folder / "a.json", base.images, training=True)
        str(analyse(data, CONFIG.preprocessing, [64]))
        for i in range(len(data)):
            _ = data[i].image

    return _evaluate(folder, folder / "a.json", base.folder / "results.json") + _function(train_on)


def _results(folder: Path, base: Base) -> Outcome:
    return _evaluate(folder, base.annotations, folder / "r.json")


def _thresholds(folder: Path, base: Base) -> Outcome:
    asked: list[str | Path] = ["--score-threshold", "per-class", "--thresholds", folder / "figures.json"]
    with _kept_session(base):
        return _predict(folder, base.onnx, base.image, *asked)


USES: dict[str, Callable[[Path, Base], Outcome]] = {
    "image": _image,
    "checkpoint": _checkpoint,
    "onnx": _onnx,
    "engine": _engine,
    "recipe": _recipe,
    "coco": _coco,
    "results": _results,
    "thresholds": _thresholds,
}
"""Kind of input -> what is done with it."""
