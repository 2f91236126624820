"""Options of a build change its recipe, and nothing else of it."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from condinst_deploy.errors import CondInstError, ConfigError
from condinst_engines.build_options import BuildOptions, recipe_of
from condinst_engines.build_recipe import BuildRecipe, RtxSettings, TensorrtSettings, load_recipe
from condinst_engines.builder_library import BuilderLibrary
from tests.support.models import IMAGES


class FullTensorrt:
    """Builds on the GPU at hand: it has no list of compute capabilities."""

    __version__ = "11.4.0"


FULL = BuilderLibrary("tensorrt", FullTensorrt)


class AheadOfTime:
    __version__ = "1.7"
    ComputeCapability = FullTensorrt


RTX = BuilderLibrary("rtx", AheadOfTime)


@pytest.mark.parametrize(
    ("options", "library", "expected"),
    [
        (BuildOptions(), RTX, BuildRecipe()),
        (BuildOptions(recipe="t4_l4"), RTX, load_recipe("t4_l4")),
        (BuildOptions(recipe=BuildRecipe(refit=True)), RTX, BuildRecipe(refit=True)),
        (BuildOptions(precision="bfloat16"), RTX, BuildRecipe(precision="bfloat16")),
        (BuildOptions(optimization_level=0), RTX, BuildRecipe(optimization_level=0)),
        (BuildOptions("t4_l4", workspace_gb=0.0), RTX, replace(load_recipe("t4_l4"), workspace_gb=0.0)),
        (BuildOptions(refit=True, strip_weights=True), RTX, BuildRecipe(refit=True, strip_weights=True)),
        (BuildOptions(sm=("SM86", " 120 ")), RTX, BuildRecipe(rtx=RtxSettings(("86", "120")))),
        (BuildOptions(no_plugins=True), FULL, BuildRecipe(tensorrt=TensorrtSettings(plugins=False))),
        (BuildOptions(hardware_compatible=True), FULL, BuildRecipe(tensorrt=TensorrtSettings(True, False))),
        (BuildOptions(version_compatible=True), FULL, BuildRecipe(tensorrt=TensorrtSettings(False, True))),
    ],
)
def test_an_option_comes_before_the_recipe(
    options: BuildOptions, library: BuilderLibrary, expected: BuildRecipe
) -> None:
    assert recipe_of(options, library) == expected


@pytest.mark.parametrize(
    ("options", "library", "message"),
    [
        (BuildOptions(sm=("86",)), FULL, "--sm is for --flavour rtx"),
        (BuildOptions(hardware_compatible=True), RTX, "are for --flavour tensorrt"),
        (BuildOptions(version_compatible=True), RTX, "are for --flavour tensorrt"),
        (BuildOptions(optimization_level=9), RTX, "optimization_level is 9; expected a whole number from 0 to 5"),
        (BuildOptions(recipe="h100"), RTX, "no recipe 'h100'"),
    ],
)
def test_an_option_that_the_library_does_not_offer_is_refused(
    options: BuildOptions, library: BuilderLibrary, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe_of(options, library)


def test_one_file_in_two_roles_is_refused_before_anything_is_read(rtx: BuilderLibrary, tmp_path: Path) -> None:
    from condinst_engines import build_engine

    assert rtx.name == "rtx"
    log = tmp_path / "build.log"
    log.symlink_to("x.engine")
    options = BuildOptions(flavour="rtx", log=log)
    with pytest.raises(ConfigError, match="--out and --log are the same file"):
        build_engine(tmp_path / "none.onnx", tmp_path / "x.engine", options)
    assert list(tmp_path.iterdir()) == [log]


def test_files_that_an_option_names_are_looked_at_before_anything_is_announced(
    rtx: BuilderLibrary, tmp_path: Path
) -> None:
    from condinst_engines import BuildReports, build_engine

    assert rtx.name == "rtx"
    said: list[str] = []
    reports = BuildReports(lambda source, library: said.append(str(source)), on_note=said.append)
    (tmp_path / "model.onnx").write_bytes(b"content")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "torn.png").write_bytes(b"no image")
    shutil.copy(IMAGES / "coffee.png", tmp_path / "images")
    int8 = BuildOptions(flavour="rtx", quantization="int8", calibration=IMAGES)
    cases: list[tuple[str, BuildOptions, str]] = [
        ("none.onnx", BuildOptions(flavour="rtx"), r"no model at .*none\.onnx"),
        ("model.onnx", replace(int8, calibration=tmp_path / "images"), r"torn\.png cannot be read"),
        ("model.onnx", replace(int8, scales=tmp_path / "none.json"), r"no manifest at .*none\.json; give ENGINE\.json"),
        ("model.onnx", BuildOptions(flavour="rtx", precision="float16", calibration=tmp_path / "images"), r"torn\.png"),
    ]
    for name, options, message in cases:
        with pytest.raises(CondInstError, match=message):
            build_engine(tmp_path / name, tmp_path / "x.engine", options, reports)
    assert said == []
