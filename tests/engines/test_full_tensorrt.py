"""Full TensorRT on the GPU that an engine is for: one command, `pytest -m tensorrt tests/engines`.

It has not run where this was written: the library comes from NVIDIA's own index, and it builds only on a GPU.
"""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

from condinst_deploy.contract.engine_manifest import read_engine
from condinst_deploy.evaluation.agreement import agreement
from condinst_deploy.runtime.predictor import Predictor
from condinst_engines.build_files import EngineFiles
from condinst_engines.build_recipe import BuildRecipe, TensorrtSettings
from condinst_engines.builder_library import BuilderLibrary, load_builder_library
from condinst_engines.engine_file import engine_from_onnx
from condinst_engines.engine_inspector import found_in_engine, layers_of
from condinst_engines.inspection import inspect_file
from condinst_engines.plan_builder import Surroundings
from tests.support.models import noise_image

pytestmark = [pytest.mark.tensorrt, pytest.mark.gpu]

FP16 = BuildRecipe(precision="float16")
PROFILE = ("1x3x128x128:1x3x128x224:2x3x224x224",)


@pytest.fixture(scope="module")
def tensorrt() -> BuilderLibrary:
    return load_builder_library("tensorrt")


@pytest.fixture
def small(small_graph: onnx.ModelProto, tmp_path: Path) -> Path:
    onnx.save(small_graph, str(tmp_path / "small.onnx"))
    return tmp_path / "small.onnx"


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_the_engine_has_the_precision_that_was_asked_for(
    slim_onnx: Path, tmp_path: Path, tensorrt: BuilderLibrary, precision: str
) -> None:
    recipe = BuildRecipe(precision=precision, profiles=PROFILE)  # type: ignore[arg-type]
    files = EngineFiles(slim_onnx, tmp_path / "slim.engine")
    path, manifest = engine_from_onnx(files, recipe, tensorrt, Surroundings())
    major, minor = torch.cuda.get_device_capability()
    assert manifest.targets == (f"{major}{minor}",)
    plan, _ = read_engine(path)
    found = found_in_engine(layers_of(plan, tensorrt, manifest))
    assert found.layers.get(precision, 0) > 20
    assert set(found.layers) <= {"float32", precision}
    description = inspect_file(path)
    assert description["remark"] == ""
    assert description["layers"]


def test_a_timing_cache_makes_the_second_build_quicker_or_equal(
    slim_onnx: Path, tmp_path: Path, tensorrt: BuilderLibrary
) -> None:
    surroundings = Surroundings(timing_cache=tmp_path / "cache")
    files, recipe = EngineFiles(slim_onnx, tmp_path / "slim.engine"), replace(FP16, profiles=PROFILE)
    engine_from_onnx(files, recipe, tensorrt, surroundings)
    first = (tmp_path / "cache").read_bytes()
    assert first
    engine_from_onnx(files, recipe, tensorrt, surroundings)
    assert len((tmp_path / "cache").read_bytes()) == len(first)  # nothing new had to be timed


@pytest.mark.parametrize(
    "recipe",
    [
        replace(FP16, tensorrt=TensorrtSettings(hardware_compatible=True)),
        replace(FP16, tensorrt=TensorrtSettings(version_compatible=True)),
        replace(FP16, refit=True),
        replace(FP16, strip_weights=True),
        replace(FP16, workspace_gb=0.25, optimization_level=0),
    ],
    ids=["hardware compatible", "version compatible", "refit", "stripped", "small and quick"],
)
def test_every_option_builds(small: Path, tmp_path: Path, tensorrt: BuilderLibrary, recipe: BuildRecipe) -> None:
    path, manifest = engine_from_onnx(EngineFiles(small, tmp_path / "x.engine"), recipe, tensorrt, Surroundings())
    assert read_engine(path)[1] == manifest
    assert manifest.hardware_compatible is recipe.tensorrt.hardware_compatible
    assert manifest.weights_stripped is recipe.strip_weights


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_plugins_and_portable_bodies_find_the_same(
    slim_onnx: Path, tmp_path: Path, tensorrt: BuilderLibrary, precision: str
) -> None:
    """The kernels inside one engine, the standard layers in the other; three runs, so that CUDA graphs take part."""
    recipe = BuildRecipe(precision=precision, profiles=PROFILE)  # type: ignore[arg-type]
    without = replace(recipe, tensorrt=TensorrtSettings(plugins=False))
    paths = []
    for name, chosen in (("plugins", recipe), ("portable", without)):
        files = EngineFiles(slim_onnx, tmp_path / f"{name}.engine")
        path, manifest = engine_from_onnx(files, chosen, tensorrt, Surroundings())
        assert len(manifest.plugins) == (2 if name == "plugins" else 0)
        paths.append(path)
    images = [noise_image(seed, 128, 160) for seed in (1, 2)]
    with Predictor(paths[0]) as fused, Predictor(paths[1]) as portable:
        for _ in range(3):
            for found, expected in zip(fused(images), portable(images), strict=True):
                assert len(found) > 0
                assert len(agreement(expected, found).mask_ious) >= 0.97 * len(expected)
