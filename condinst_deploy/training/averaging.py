"""A moving average of the weights, which is evaluated and exported instead of the trained weights."""

import copy

import torch

from condinst_deploy.model.condinst import CondInst


class WeightAverage:
    """Exponential moving average of a model's weights; statistics of norms are those of the model.

    The decay begins small, `(1 + n) / (10 + n)` after n steps, so that the random start is soon forgotten.
    """

    def __init__(self, model: CondInst, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self._decay = decay

    @torch.no_grad()
    def update(self, model: CondInst, steps: int) -> None:
        """Take over a model's weights after its step number `steps`, counted from 1."""
        decay = min(self._decay, (1 + steps) / (10 + steps))
        for own, new in zip(self.model.parameters(), model.parameters(), strict=True):
            own.lerp_(new, 1 - decay)
        self.copy_statistics(model)

    @torch.no_grad()
    def copy_statistics(self, model: CondInst) -> None:
        """Take over all buffers."""
        for own, new in zip(self.model.buffers(), model.buffers(), strict=True):
            own.copy_(new)
