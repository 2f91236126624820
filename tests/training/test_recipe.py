"""Recipes: what ships is what was published, and what is wrong is named."""

from dataclasses import replace
from pathlib import Path

import pytest

from condinst_deploy.errors import ConfigError
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.training.recipe import Recipe, ScheduleSettings, load_recipe, recipe_from_dict


def test_the_published_recipe_is_mmdetections() -> None:
    recipe = load_recipe("condinst_r50_1x")
    assert recipe.schedule == ScheduleSettings()
    assert (recipe.schedule.iterations, recipe.schedule.batch_size) == (90_000, 16)
    assert (recipe.optimizer.kind, recipe.optimizer.learning_rate, recipe.optimizer.momentum) == ("sgd", 0.01, 0.9)
    assert recipe.optimizer.weight_decay == 1e-4
    assert recipe.optimizer.decay_norms_and_biases
    assert recipe.short_sides == (640, 672, 704, 736, 768, 800)
    assert (recipe.start.frozen_stages, recipe.start.norm_eval) == (2, True)
    assert recipe.model == Recipe().model


def test_the_slim_recipe_has_the_full_structure_at_a_quarter_of_the_width() -> None:
    recipe = load_recipe("shapes_slim")
    slim = CondInst(recipe.model)
    assert sum(p.numel() for p in slim.parameters()) <= 2_500_000
    assert [key for key, _ in slim.named_parameters()] == [key for key, _ in CondInst().named_parameters()]


def test_the_learning_rate_warms_up_and_steps_down() -> None:
    schedule = ScheduleSettings()
    rates = [schedule.learning_rate(i, 0.01) for i in (0, 500, 1_000, 59_999, 60_000, 80_000, 89_999)]
    assert rates == pytest.approx([1e-5, 0.5005 * 0.01, 0.01, 0.01, 1e-3, 1e-4, 1e-4])


def test_the_cosine_begins_after_the_warm_up_and_ends_at_nothing() -> None:
    schedule = ScheduleSettings(iterations=1_100, warmup_iterations=100, warmup_factor=0.0, decay="cosine")
    rates = [schedule.learning_rate(i, 1.0) for i in (0, 50, 100, 600, 1_100)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.5, 0.0], abs=1e-9)


def test_a_recipe_comes_back_from_its_dictionary() -> None:
    for name in ("condinst_r50_1x", "shapes_slim"):
        recipe = load_recipe(name)
        assert recipe_from_dict(recipe.to_dict()) == recipe
        assert recipe_from_dict(replace(recipe, seed=7).to_dict()) != recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "unknown setting colour"),
        ("[optimizer]\nspeed = 2", "unknown setting optimizer.speed"),
        ("[model.preprocessing]\nshort = 2", r"unknown setting model\.preprocessing\.short"),
        ("seed = 'x'", "seed is 'x'; expected int"),
        ("[optimizer]\nkind = 'adam'", "optimizer.kind is 'adam'"),
        ("[schedule]\niterations = 0", "iterations 0"),
        ("[schedule]\ndecay = 'cosine'\niterations = 10\nwarmup_iterations = 10", "a cosine needs some"),
        ("[schedule]\ndecay = 'line'", "expected steps or cosine"),
        ("seed =", "cannot be read as a recipe"),
        ("[model]\ndepth = 51", "depth is 51"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_recipe(str(path))
    assert "mine.toml" in str(error.value)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="condinst_r50_1x, shapes_slim"):
        load_recipe("nothing")
