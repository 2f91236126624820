"""Recipes: what ships is what was published, and what is wrong is named."""

import math
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from condinst_deploy.errors import ConfigError, MissingFileError
from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import CondInstConfig
from condinst_deploy.model.family_settings import ADELAIDET_PREPROCESSING, ADELAIDET_SELECTION
from condinst_deploy.model.losses import LossSettings
from condinst_deploy.training.recipe import Recipe, ScheduleSettings, load_recipe, recipe_from_dict
from tests.support.models import adelaidet_shapes


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
    assert not recipe.augment.on
    assert recipe.data.group == 2  # AspectRatioBatchSampler, two images for each of eight GPUs


ADELAIDET = {
    "adelaidet_r50_1x": "MS_R_50",
    "adelaidet_r50_3x": "MS_R_50",
    "adelaidet_r50_3x_sem": "MS_R_50_sem",
    "adelaidet_r101_1x": "MS_R_101",
    "adelaidet_r101_3x": "MS_R_101",
    "adelaidet_r101_3x_sem": "MS_R_101_sem",
    "adelaidet_r50_bifpn_1x": None,
    "adelaidet_r50_bifpn_3x": None,
    "adelaidet_r50_bifpn_3x_sem": "MS_R_50_BiFPN_sem",
    "adelaidet_r101_bifpn_3x": None,
    "adelaidet_r101_bifpn_3x_sem": None,
}
"""Recipe -> architecture whose keys AdelaiDet's own state dict was listed for."""


@pytest.mark.parametrize("name", ADELAIDET)
def test_the_recipes_of_the_zoo_are_adelaidets(name: str) -> None:
    recipe = load_recipe(name)
    longer = "3x" in name
    assert recipe.schedule == ScheduleSettings(
        iterations=270_000 if longer else 90_000, steps=(210_000, 250_000) if longer else (60_000, 80_000)
    )
    assert (recipe.optimizer.kind, recipe.optimizer.learning_rate, recipe.optimizer.momentum) == ("sgd", 0.01, 0.9)
    assert (recipe.optimizer.weight_decay, recipe.optimizer.decay_norms) == (1e-4, False)
    assert recipe.optimizer.decay_norms_and_biases
    assert recipe.data.group == 2  # detectron2's ASPECT_RATIO_GROUPING, which is on by default
    assert (recipe.start.frozen_stages, recipe.start.norm_eval, recipe.start.norm_affine) == (2, True, False)
    assert recipe.losses == LossSettings(max_masks=500, family="adelaidet")
    assert recipe.short_sides == (640, 672, 704, 736, 768, 800)
    assert recipe.model.preprocessing == ADELAIDET_PREPROCESSING
    assert recipe.model.selection == ADELAIDET_SELECTION
    bifpn = "bifpn" in name
    assert recipe.model == CondInstConfig(
        depth=101 if "r101" in name else 50,
        stride_in_1x1=True,
        neck="bifpn" if bifpn else "fpn",
        fpn_channels=160 if bifpn else 256,
        semantic_head=name.endswith("_sem"),
        preprocessing=ADELAIDET_PREPROCESSING,
        selection=ADELAIDET_SELECTION,
    )


@pytest.mark.parametrize("name", [name for name, architecture in ADELAIDET.items() if architecture is not None])
def test_a_recipes_model_has_as_many_weights_as_adelaidets(name: str) -> None:
    architecture = ADELAIDET[name]
    assert architecture is not None
    with torch.device("meta"):
        ours = CondInst(load_recipe(name).model).state_dict()
    theirs = adelaidet_shapes(architecture)
    counted = sum(value.numel() for key, value in ours.items() if not key.endswith("num_batches_tracked"))
    idle = ("num_batches_tracked", "sizes_of_interest", "_iter")
    assert counted == sum(math.prod(shape) for key, shape in theirs.items() if not key.endswith(idle))


def test_every_recipe_of_the_package_is_tested_here() -> None:
    folder = files("condinst_deploy") / "training" / "recipes"
    names = {entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")}
    assert names == {"condinst_r50_1x", "shapes_slim", *ADELAIDET}


def test_a_recipe_builds_on_another(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "adelaidet_r50_3x_sem"\n[optimizer]\nlearning_rate = 0.001\n')
    base = load_recipe("adelaidet_r50_3x_sem")
    assert load_recipe(str(path)) == replace(base, optimizer=replace(base.optimizer, learning_rate=0.001))


def test_the_slim_recipe_has_the_full_structure_at_a_quarter_of_the_width() -> None:
    recipe = load_recipe("shapes_slim")
    slim = CondInst(recipe.model)
    assert sum(p.numel() for p in slim.parameters()) <= 2_500_000
    assert [key for key, _ in slim.named_parameters()] == [key for key, _ in CondInst().named_parameters()]


def test_the_learning_rate_warms_up_and_steps_down() -> None:
    schedule = ScheduleSettings()
    rates = [schedule.learning_rate(i, 0.01) for i in (0, 500, 1_000, 59_999, 60_000, 80_000, 89_999)]
    half = 0.001 + 0.999 * 500 / 999
    assert rates == pytest.approx([1e-5, half * 0.01, 0.01, 0.01, 1e-3, 1e-4, 1e-4])


def test_the_schedule_is_mmengines() -> None:
    """Iteration by iteration against mmengine's own schedulers, chained as mmdetection's configuration chains them."""
    optim = pytest.importorskip("mmengine.optim", reason="compares with mmengine's schedulers: pip install '.[dev]'")
    schedule = ScheduleSettings(iterations=1_300, steps=(1_100, 1_200))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    warmup = optim.LinearLR(optimizer, start_factor=0.001, by_epoch=False, begin=0, end=1_000)
    steps = optim.MultiStepLR(optimizer, by_epoch=False, begin=0, end=1_300, milestones=[1_100, 1_200], gamma=0.1)
    theirs = []
    for _ in range(schedule.iterations):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        warmup.step()
        steps.step()
    assert theirs[999] == pytest.approx(0.01, rel=1e-9)
    assert theirs[998] < 0.01 * 0.9995
    ours = [schedule.learning_rate(i, 0.01) for i in range(schedule.iterations)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_adelaidets_warm_up_is_detectron2s() -> None:
    """`warmup_factor * (1 - i / 1000) + i / 1000`: the full rate comes one iteration later than mmdetection's."""
    recipe = load_recipe("adelaidet_r50_1x")
    for i in (0, 1, 500, 998, 999):
        assert recipe.learning_rate(i) == pytest.approx(0.01 * (0.001 * (1 - i / 1000) + i / 1000))
    assert recipe.learning_rate(999) < recipe.learning_rate(1_000) == 0.01
    assert load_recipe("condinst_r50_1x").learning_rate(999) == 0.01


@pytest.mark.parametrize(("decay", "at_a_quarter"), [("cosine", (2 + 2**0.5) / 4), ("linear", 0.75)])
def test_a_smooth_decay_begins_after_the_warm_up_and_ends_at_nothing(
    decay: Literal["cosine", "linear"], at_a_quarter: float
) -> None:
    schedule = ScheduleSettings(iterations=1_100, warmup_iterations=100, warmup_factor=0.0, decay=decay)
    rates = [schedule.learning_rate(i, 1.0) for i in (0, 50, 99, 100, 350, 600, 1_100)]
    assert rates == pytest.approx([0.0, 50 / 99, 1.0, 1.0, at_a_quarter, 0.5, 0.0], abs=1e-9)


@pytest.mark.parametrize("name", ["condinst_r50_1x", "shapes_slim"])
@pytest.mark.parametrize("iterations", [1, 2, 50])
def test_a_run_shorter_than_the_warm_up_ends_with_the_full_rate(name: str, iterations: int) -> None:
    recipe = load_recipe(name)
    assert recipe.schedule.warmup_iterations > 50
    short = recipe.of_length(iterations)
    rates = [short.schedule.learning_rate(i, 1.0) for i in range(iterations)]
    assert rates == sorted(rates)
    assert rates[-1] == 1.0
    assert iterations <= 2 or rates[0] < rates[1] < 1.0
    assert short.late_iterations <= short.schedule.iterations == iterations


def test_a_run_of_another_length_that_holds_the_warm_up_keeps_it() -> None:
    recipe = load_recipe("condinst_r50_1x")
    assert recipe.of_length(1001) == replace(recipe, schedule=replace(recipe.schedule, iterations=1001))
    slim = load_recipe("shapes_slim")
    half = slim.of_length(slim.schedule.iterations // 2)
    assert half.late_iterations == slim.late_iterations // 2 > 0
    with pytest.raises(ConfigError, match="iterations is 0"):
        recipe.of_length(0)


def test_a_recipe_comes_back_from_its_dictionary() -> None:
    for name in ("condinst_r50_1x", "shapes_slim", "adelaidet_r101_bifpn_3x_sem"):
        recipe = load_recipe(name)
        assert recipe_from_dict(recipe.to_dict()) == recipe
        assert recipe_from_dict(replace(recipe, seed=7).to_dict()) != recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("colour = 1", "unknown setting colour"),
        ("[optimizer]\nspeed = 2", "unknown setting optimizer.speed"),
        ("[model.preprocessing]\nshort = 2", r"unknown setting model\.preprocessing\.short"),
        ("seed = 'x'", "seed is 'x'; expected a whole number"),
        ("[optimizer]\nkind = 'adam'", "optimizer.kind is 'adam'"),
        ("[schedule]\niterations = 0", "schedule.iterations is 0; expected a whole number from 1"),
        ("[schedule]\ndecay = 'cosine'\niterations = 10\nwarmup_iterations = 10", "the cosine decay needs some"),
        ("[schedule]\ndecay = 'line'", "schedule.decay is 'line'; expected one of steps, cosine, linear"),
        ("seed =", "cannot be read as a recipe"),
        ("[model]\ndepth = 51", "depth is 51"),
        ("base = 'nothing'", "no recipe 'nothing'; the package has"),
        ("base = 3", "base is 3; expected the name of a recipe"),
        ("[model.selection]\nfamily = 'adelaidet'", "preprocessing is of the family mmdet"),
        ("[losses]\nfamily = 'yolact'", "family is 'yolact'; expected one of mmdet, adelaidet"),
        ("[losses]\nfamily = 'adelaidet'", "losses.family is adelaidet and the model is of the family mmdet"),
        ("[losses]\nmasks_per_image = 0", "losses.masks_per_image is 0; expected a whole number of at least 1"),
        ("[losses]\nmasks_per_image = 'few'", "losses.masks_per_image is 'few'; expected a whole number or nothing"),
        ("[losses]\nmax_masks = -1", "losses.max_masks is -1"),
        ("seed = -1", "seed is -1; expected a whole number from 0"),
        ("evaluate_every = -1", "evaluate_every is -1; expected a whole number of at least 0"),
        ("checkpoint_every = 0", "checkpoint_every is 0; expected a whole number of at least 1"),
        ("log_every = 0", "log_every is 0; expected a whole number of at least 1"),
        ("[data]\nworkers = -1", "data.workers is -1; expected a whole number from 0 to 256"),
        ("late_iterations = -1", "late_iterations is -1; expected a whole number of at least 0"),
        (
            "late_iterations = 90001\nlate_short_sides = [800]",
            "late_iterations is 90001; expected 0 to schedule.iterations, which is 90000",
        ),
        ("patience = 2\nevaluate_every = 0", "patience is 2 evaluations, and evaluate_every is 0"),
        ("late_iterations = 3", "late_iterations is 3; expected sizes for them in late_short_sides"),
        ("[schedule]\nsteps = ['a']", r"schedule\.steps\[0\] is 'a'; expected a whole number"),
        ("[schedule]\nsteps = 3", r"schedule\.steps is 3; expected a list of whole numbers"),
        ("[schedule]\nbatch_size = true", r"schedule\.batch_size is True; expected a whole number"),
        ("[schedule]\nbatch_size = 2.0", r"schedule\.batch_size is 2\.0; expected a whole number"),
        ("[schedule]\nwarmup_factor = inf", r"schedule\.warmup_factor is inf; expected a finite number"),
        ("[schedule]\nstep_factor = 2", r"schedule\.step_factor is 2\.0; expected a number from 0 to 1"),
        ("[optimizer]\nclip_norm = 'x'", r"optimizer\.clip_norm is 'x'; expected a number or nothing"),
        ("[optimizer]\nclip_norm = -1", r"optimizer\.clip_norm is -1\.0; expected a number above 0"),
        ("[optimizer]\nclip_norm = 0", r"optimizer\.clip_norm is 0\.0; expected a number above 0"),
        ("[optimizer]\nlearning_rate = nan", r"optimizer\.learning_rate is nan; expected a finite number"),
        ("[optimizer]\nmomentum = 5", r"optimizer\.momentum is 5\.0; expected a number from 0 to below 1"),
        ("[optimizer]\nmomentum = 1", r"optimizer\.momentum is 1\.0; expected a number from 0 to below 1"),
        ("[optimizer]\nkind = 'adamw'\nbetas = [1, 2, 3]", r"betas is \[1, 2, 3\]; expected a list of 2 numbers"),
        ("[optimizer]\nkind = 'adamw'\nbetas = [0.9, 1]", r"optimizer\.betas\[1\] is 1\.0"),
        ("[optimizer]\nbetas = [0.8, 0.9]", "which the optimizer sgd does not use; leave it out"),
        ("[optimizer]\nkind = 'adamw'\nmomentum = 0.8", "momentum is 0.8, which the optimizer adamw does not use"),
        ("[model.preprocessing]\nstd = ['a']", r"model\.preprocessing\.std is \['a'\]; expected a list of 3 numbers"),
        ("[model.preprocessing]\nshort_side = 30000\nlong_side = 40000", "short_side is 30000"),
        ("short_sides = [30000]", r"short_sides\[0\] is 30000; expected a whole number from 1 to 16384"),
        ("short_sides = []", "short_sides is empty"),
        (f"late_short_sides = [{'8, ' * 2000}8]", "late_short_sides has 2001 sizes; expected at most 1000"),
        ("[data]\nworkers = 1000000000", "data.workers is 1000000000; expected a whole number from 0 to 256"),
        ("[data]\ntrain_images = 3", r"data\.train_images is 3; expected text"),
        ("[start]\nfrozen_stages = 9", r"start\.frozen_stages is 9; expected a whole number from 0 to 5"),
        ("flip = 2", r"flip is 2\.0; expected a number from 0 to 1"),
        ("model = 3", "model is 3; expected a table of settings"),
        ("seed = " + "9" * 30, "seed is 9{30}; expected a whole number of at most 64 bits"),
        ("seed = " + "9" * 5000, "seed is a whole number of 5000 digits; expected a whole number of at most 64 bits"),
        (f"# {'x' * 10**6}\nseed = {'9' * 5000}", "seed is a whole number of 5000 digits"),
        (f"flip = [{'9' * 3999}]\nseed = [1, {'9' * 4500}]", "seed is a whole number of 4500 digits"),
        ("x." * 10**5 + "y = 1", "line 1 has a key of more than 50 parts; expected table.setting"),
        ("flip = 0.5\n[" + '"a b" . ' * 60 + "a]", "line 2 has a key of more than 50 parts"),
        (f"flip = {{{'a.' * 60}b = 1}}", "line 1 has a key of more than 50 parts"),
        ("# " + "x" * 10**7, "has 10000002 characters; expected a recipe of at most 10000000"),
        ("seed = " + "[" * 5000, "nested too deeply"),
        ("seed = " + "[" * 40 + "]" * 40, r"seed\[0\].* is nested deeper than 16 levels"),
        ("[optimizer]\nlerning_rate = 1", r"unknown setting optimizer\.lerning_rate;.*Did you mean 'learning_rate'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        load_recipe(str(path))
    assert "mine.toml" in str(error.value)


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"adelaidet_r50_1x, .*condinst_r50_1x, shapes_slim"):
        load_recipe("nothing")


def test_a_file_that_does_not_exist_is_missing_and_not_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(
        MissingFileError, match=r"no recipe at .*none\.toml; expected .*: adelaidet_r101_1x, .*shapes_slim"
    ):
        load_recipe(str(tmp_path / "none.toml"))


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = 7\n", encoding="utf-8-sig")
    assert load_recipe(str(path)).seed == 7
