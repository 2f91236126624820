"""Recipes of small models that train in seconds: as a file's text, and as a value."""

from dataclasses import replace
from pathlib import Path

from condinst_deploy.contract import Preprocessing
from condinst_deploy.training.recipe import DataSettings, OptimizerSettings, Recipe, StartSettings
from tests.support.models import TINY

RECIPE = """
short_sides = [64]
log_every = 40

[data]
workers = 0

[model]
depth = 18
base_width = 8
fpn_channels = 64
tower_convs = 1
mask_branch_channels = 8
mask_branch_convs = 1
preprocessing = {short_side = 64, long_side = 64}

[schedule]
iterations = 100
batch_size = 1
warmup_iterations = 1

[start]
frozen_stages = 0
"""


def tiny_recipe(train: Path, val: Path, side: int) -> Recipe:
    """Return a recipe of the smallest model, without evaluations before the end.

    Args:
        train: annotations; the images are in the folder of the same name without the ending.
        val: the same for the validation set.
        side: sides of the images for the network.
    """
    return Recipe(
        model=replace(TINY, preprocessing=Preprocessing(short_side=side, long_side=side)),
        data=DataSettings(str(train), str(train.with_suffix("")), str(val), str(val.with_suffix("")), workers=0),
        optimizer=OptimizerSettings("adamw", 0.002, decay_norms_and_biases=False),
        start=StartSettings(frozen_stages=0, norm_eval=False, controller_std=0.02, box_bias=2.0),
        short_sides=(side,),
        evaluate_every=0,
    )
