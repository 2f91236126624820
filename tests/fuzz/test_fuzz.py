"""Damaged files of every kind are taken, or refused in one line; nothing is left under a final name after an error."""

import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.fuzz.inputs import KINDS, SHARES, Base, Files, base_files
from tests.fuzz.mutations import json_bytes
from tests.fuzz.targets import USES, run_input


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return base_files(tmp_path_factory.mktemp("fuzz"))


def use(kind: str, files: Files, base: Base, folder: Path) -> tuple[bool, tuple[str, ...]]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    outcome = run_input(kind, folder, base)
    return outcome.accepted, outcome.faults


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_cause_no_fault(kind: str, base: Base, tmp_path: Path) -> None:
    @settings(
        max_examples=2 * SHARES[kind],
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind](base))
    def check(files: Files) -> None:
        assert use(kind, files, base, tmp_path / "input")[1] == ()

    check()


def test_the_valid_files_are_taken(base: Base, tmp_path: Path) -> None:
    """Otherwise the fuzzer would find only what is refused at the door."""
    recipes = Path(__file__).parents[2]
    valid: dict[str, Files] = {
        "image": {"a.png": base.image.read_bytes()},
        "checkpoint": {"m.pth": base.checkpoint.read_bytes()},
        "onnx": {"m.onnx": base.onnx.read_bytes()},
        "engine": {name: (base.folder / f"model{name[1:]}").read_bytes() for name in ("m.engine", "m.engine.json")},
        "recipe": {
            "r.toml": (recipes / "condinst_deploy/training/recipes/shapes_slim.toml").read_bytes(),
            "e.toml": (recipes / "engines/condinst_engines/recipes/data_centre.toml").read_bytes(),
        },
        "coco": {"a.json": base.annotations.read_bytes()},
        "results": {"r.json": (base.folder / "results.json").read_bytes()},
        "thresholds": {"figures.json": json_bytes({"sides": [THRESHOLDS]})},
    }
    assert valid.keys() == USES.keys() == KINDS.keys() == SHARES.keys()
    taken = {kind: use(kind, files, base, tmp_path / "input") for kind, files in valid.items()}
    assert taken == dict.fromkeys(KINDS, (True, ()))


POINT = {"threshold": 0.5, "f1": 0.8, "precision": 0.8, "recall": 0.8}
CLASSES = [{"name": f"class {c}", **POINT} for c in "abc"]
THRESHOLDS = {"name": "m", "thresholds": {"overall": POINT, "per_class": CLASSES}}


def test_a_fault_is_seen(base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_path: Path) -> None:
        raise ZeroDivisionError("one")

    monkeypatch.setattr("condinst_engines.inspection.inspect_file", fails)
    files = {name: (base.folder / f"model{name[1:]}").read_bytes() for name in ("m.engine", "m.engine.json")}
    accepted, faults = use("engine", files, base, tmp_path / "input")
    assert not accepted
    assert "traceback: ZeroDivisionError: one" in faults[0]
