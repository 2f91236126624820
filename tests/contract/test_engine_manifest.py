"""The manifest beside an engine: written, read back, and checked against plan, library and GPU."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from condinst_deploy.contract.engine_manifest import (
    manifest_path,
    read_engine,
    write_engine,
)
from condinst_deploy.errors import ArtifactError, OutputError
from tests.support.engines import MANIFEST, PLAN


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    write_engine(path, PLAN, MANIFEST)
    return path


def test_what_was_written_is_read_back(engine: Path) -> None:
    assert read_engine(engine) == (PLAN, MANIFEST)
    assert engine.read_bytes() == PLAN  # plain: other programs load it
    assert sorted(path.name for path in engine.parent.iterdir()) == ["model.engine", "model.engine.json"]


def test_inputs_and_outputs_are_told_apart() -> None:
    assert [tensor.name for tensor in MANIFEST.inputs] == ["images"]
    assert [tensor.name for tensor in MANIFEST.outputs] == ["mask_logits"]


@pytest.mark.parametrize(
    ("shape", "profile"), [((1, 3, 64, 64), 0), ((2, 3, 64, 64), 1), ((9, 3, 64, 64), None), ((1, 3, 64, 128), None)]
)
def test_the_first_profile_that_covers_a_shape_is_chosen(shape: tuple[int, ...], profile: int | None) -> None:
    assert MANIFEST.profile_for({"images": shape}) == profile


def test_fixed_shapes_have_no_profiles() -> None:
    with pytest.raises(ArtifactError, match="fixed shapes"):
        replace(MANIFEST, profiles=()).profile_for({"images": (1, 3, 64, 64)})


def test_a_missing_engine_is_said(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no engine at .*condinst-build-engine"):
        read_engine(tmp_path / "none.engine")


def test_an_engine_without_its_manifest_is_refused(engine: Path) -> None:
    manifest_path(engine).unlink()
    with pytest.raises(ArtifactError, match=r"has no manifest: model\.engine\.json must lie beside it"):
        read_engine(engine)


@pytest.mark.parametrize("plan", [PLAN[:-1], PLAN + b"x", b""])
def test_a_plan_of_another_build_is_refused(engine: Path, plan: bytes) -> None:
    engine.write_bytes(plan)
    with pytest.raises(ArtifactError, match=r"is not the plan that model\.engine\.json describes"):
        read_engine(engine)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "has version 2; this release reads 1"),
        ({"flavour": "vanilla"}, "'vanilla'"),
        ({"colour": "blue"}, "cannot be used"),
        ({"targets": []}, "names no target"),
        ({"model": {"version": 9}}, "version 9"),
        ({"tensors": [{"name": "x"}]}, "cannot be used"),
        ({"profiles": [{"images": {"min": [1]}}]}, "cannot be used"),
        ({"profiles": 3}, "cannot be used"),
        ({"plan_bytes": True}, "plan_bytes is True; expected a whole number"),
        ({"build_seconds": "x"}, "build_seconds is 'x'; expected a number"),
        ({"targets": [86]}, r"targets\[0\] is 86; expected text"),
        ({"tensors": [{"name": "a", "role": "both", "dtype": "x", "shape": [1]}]}, "role is 'both'; expected one of"),
        ({"profiles": [{"images": {"min": [1], "opt": [1, 2], "max": [1]}}]}, "shapes of different ranks"),
        ({"found": {"source": "x", "layers": {"float16": "many"}}}, "found.layers.float16 is 'many'"),
        ({"hardware_compatible": 1}, "hardware_compatible is 1; expected true or false"),
        ({"model": None}, "has version None"),
        ({"host": "\ud800"}, "host is .*; expected text in Unicode"),
        ({"plugins": None}, "plugins is None; expected a list of texts"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named(engine: Path, change: dict[str, object], reason: str) -> None:
    path = manifest_path(engine)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=reason) as refused:
        read_engine(engine)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_manifest_that_is_not_json_is_named(engine: Path, text: str) -> None:
    manifest_path(engine).write_text(text)
    with pytest.raises(ArtifactError, match=r"model\.engine\.json"):
        read_engine(engine)


@pytest.mark.parametrize(
    ("change", "machine", "reason"),
    [
        ({}, ("rtx", "1.7.1.116", "86"), None),
        ({}, ("rtx", "1.7.1.116", "120"), None),
        (
            {},
            ("tensorrt", "1.7.1.116", "86"),
            r"flavour rtx .* library at hand is tensorrt.*condinst-deploy\[engine\]' tensorrt-rtx",
        ),
        ({}, ("rtx", "1.8.0.2", "86"), r"built by version 1\.7\.1\.116 and 1\.8\.0\.2 is installed"),
        ({}, ("rtx", "1.7.1.116", "90"), "capability 86, 120 and this one has 90"),
        ({"version_compatible": True}, ("rtx", "1.10.0", "86"), None),
        ({"version_compatible": True}, ("rtx", "1.6.9", "86"), "built by version"),
        ({"hardware_compatible": True}, ("rtx", "1.7.1.116", "90"), None),
        ({"hardware_compatible": True}, ("rtx", "1.7.1.116", "80"), None),  # older than both targets
        ({"hardware_compatible": True}, ("rtx", "1.7.1.116", "75"), "capability"),
    ],
)
def test_another_library_or_gpu_is_refused_before_the_library_does(
    change: dict[str, bool], machine: tuple[str, str, str], reason: str | None
) -> None:
    manifest = replace(MANIFEST, **change)  # type: ignore[arg-type]
    if reason is None:
        manifest.check_loadable(*machine)
    else:
        with pytest.raises(ArtifactError, match=reason):
            manifest.check_loadable(*machine)


@pytest.mark.parametrize("full", ["write_bytes", "write_text"])
def test_nothing_changes_when_the_disk_is_full(engine: Path, full: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, full, fail)
        with pytest.raises(OutputError, match="No space left"):
            write_engine(engine, b"another plan", replace(MANIFEST, precision="bfloat16"))
    assert read_engine(engine) == (PLAN, MANIFEST)
    assert len(list(engine.parent.iterdir())) == 2
