"""Remarks on GPUs that an engine does not support."""

from types import SimpleNamespace
from typing import Any

import pytest

from condinst_engines.build_options import BuildOptions
from condinst_engines.build_recipe import BuildRecipe, load_recipe
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.gpu_coverage import coverage_notes


def library(name: Any) -> BuilderLibrary:
    module = SimpleNamespace(ComputeCapability=None) if name == "rtx" else SimpleNamespace()
    return BuilderLibrary(name, module)


def notes(chosen: BuildRecipe | None = None, name: str = "rtx", **options: Any) -> list[str]:
    return list(coverage_notes(BuildOptions(**options), chosen or BuildRecipe(), library(name)))


def test_without_a_builder_and_full_tensorrt_the_gpus_left_out_are_named() -> None:
    first, second = notes()
    assert "full TensorRT is not installed here" in first
    assert first.endswith("compute capability 86, 89, 120")
    assert "will not load on A100 and A30 (sm 80), H100 and H200 (sm 90), B200 (sm 100)" in second
    assert "with --flavour tensorrt (pip install 'condinst-deploy[tensorrt]'" in second


def test_the_recipe_for_servers_says_what_the_builder_rtx_leaves_out() -> None:
    recipe = load_recipe("data_centre")
    (note,) = notes(recipe, recipe="data_centre", flavour="rtx")
    assert "will not load on H100 and H200 (sm 90), B200 (sm 100)" in note
    assert "A100" not in note


@pytest.mark.parametrize(
    ("name", "options"),
    [("tensorrt", {}), ("rtx", {"flavour": "rtx"}), ("rtx", {"sm": ("86",)}), ("tensorrt", {"recipe": "data_centre"})],
)
def test_nothing_is_said_where_the_gpus_are_known(name: str, options: dict[str, Any]) -> None:
    assert notes(None, name, **options) == []
