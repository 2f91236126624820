"""Operations of the network that most benchmarks measure, R-50, counted by PyTorch's counter on its meta device."""

import math
from functools import cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from condinst_deploy.model.condinst import CondInst
from condinst_deploy.model.config import MASK_STRIDE

HEIGHT, WIDTH, SLOTS = 800, 1344, 100

KERNEL = 3 * 3
"""Weights of one channel pair of the controller's convolution."""

PARTS = {"Backbone": "backbone", "FPN": "FPN", "MaskBranch": "mask branch"}
"""Names of the classes for the counter, and names in results."""


@cache
def gflop_of_r50() -> dict[str, float]:
    """GFLOP of each part for one image of 800x1344 with 100 instances, as the exported file computes it.

    A multiplication and an addition are two operations. The controller runs at the kept instances alone
    (`docs/decisions/0045-controller-at-kept-instances.md`); at every point it would take 17.4 GFLOP.
    """
    with torch.device("meta"):
        model = CondInst().eval()
        images = torch.zeros(1, 3, HEIGHT, WIDTH)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.features_before_controller(images)
    counted = counter.get_flop_counts()
    parts = {name: sum(counted[key].values()) / 1e9 for key, name in PARTS.items()}
    parts["head"] = counter.get_total_flops() / 1e9 - sum(parts.values())
    controller = model.head.controller
    params, channels = controller.out_channels, controller.in_channels
    parts["controller"] = 2 * SLOTS * params * channels * KERNEL / 1e9
    pixels = math.ceil(HEIGHT / MASK_STRIDE) * math.ceil(WIDTH / MASK_STRIDE)
    hidden = model.config.dynamic_channels
    biases = 2 * hidden + 1  # of the three dynamic layers; they add, and nothing is multiplied
    parts["dynamic mask head"] = 2 * SLOTS * (params - biases) * pixels / 1e9
    return parts
