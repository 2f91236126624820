"""Recipes of the package and of users."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest

from condinst_deploy.contract import Preprocessing
from condinst_deploy.errors import ConfigError
from condinst_engines.build_recipe import BuildRecipe, load_recipe
from condinst_engines.builder_library import BuilderLibrary
from condinst_engines.plan_builder import targets_of
from condinst_engines.profiles import profiles_for
from tests.support.models import SLIM, manifest_of

NAMES = sorted(Path(str(entry)).stem for entry in (files("condinst_engines") / "recipes").iterdir())


def test_the_package_has_a_recipe_for_each_kind_of_machine() -> None:
    assert NAMES == ["data_centre", "rtx_workstation", "t4_l4"]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_of_the_package_can_be_built_by_the_builder_at_hand(name: str, rtx: BuilderLibrary) -> None:
    recipe = load_recipe(name)
    assert recipe.precision == "float16"
    assert set(targets_of(recipe, rtx)) <= set(rtx.targets)
    model = replace(manifest_of(SLIM), preprocessing=Preprocessing())
    assert len(profiles_for(model, recipe)) == len(recipe.batches) > 0
    assert recipe.profiles == ()  # sides are the model's, whatever it is


def write(folder: Path, text: str) -> str:
    path = folder / "own.toml"
    path.write_text(text)
    return str(path)


def test_what_a_file_leaves_out_keeps_its_default(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, 'precision = "bfloat16"\n[policy]\nfloat32 = ["head.box_pred/*"]\n'))
    assert recipe.policy.float32 == ("head.box_pred/*",)
    assert replace(recipe, precision="float32", policy=BuildRecipe().policy) == BuildRecipe()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('precision = "fp16"', "precision is 'fp16'; expected one of float32, float16, bfloat16"),
        ("optimization_level = 9", "optimization_level is 9; expected a whole number from 0 to 5"),
        ("optimization_level = true", "optimization_level is True; expected a whole number"),
        ("workspace_gb = nan", "workspace_gb is nan; expected a finite number"),
        ("workspace_gb = 1024", "workspace_gb .* is 1024.0; expected a number from 0 to below 1024"),
        ("workspace_gb = -1", "workspace_gb"),
        ("profiles = [1]", r"profiles\[0\] is 1; expected text"),
        ('profiles = "1"', "profiles is '1'; expected a list of texts"),
        ("batches = [8]", r"batches\[0\] is 8; expected text"),
        ("batches = []", "batches is empty"),
        ("[rtx]\nsm = [86]", r"rtx\.sm"),
        ("[policy]\nhalf = [1]", r"policy\.half"),
        ("colour = 1", "unknown setting colour"),
        ("[tensorrt]\nplugin = true", r"unknown setting tensorrt\.plugin;.* Did you mean 'plugins'"),
        ("refit = 1", "refit is 1; expected true or false"),
        ("= 1", "cannot be read as a recipe"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_its_file(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason) as refused:
        load_recipe(write(tmp_path, text))
    assert "own.toml" in str(refused.value)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="data_centre, rtx_workstation, t4_l4"):
        load_recipe("h100")
