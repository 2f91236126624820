"""Training runs of the tests."""

import torch

from condinst_deploy.training.ranks import ALONE, Ranks
from condinst_deploy.training.recipe import Recipe
from condinst_deploy.training.run import TrainingRun
from condinst_deploy.training.run_start import new_run
from condinst_deploy.training.trainer import Sets, manifest_for


def run_of(recipe: Recipe, sets: Sets, ranks: Ranks = ALONE) -> TrainingRun:
    """A new run on the CPU."""
    return new_run(recipe, manifest_for(recipe, sets), torch.device("cpu"), ranks)
