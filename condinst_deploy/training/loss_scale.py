"""Loss scaling for float16, in which small gradients would become zero."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from condinst_deploy.support.validation import Limits, check_number, typed


@dataclass
class LossScale:
    """A factor for the loss that grows while all gradients are finite, as PyTorch's `GradScaler` has it.

    `GradScaler` scales the gradients of an optimizer's own parameters; Muon's are views that get theirs late. This one
    takes the model's parameters. All processes have the same gradients, and so the same scale.
    """

    factor: float = 65_536.0
    good_steps: int = 0  # with finite gradients, since the factor changed
    growth_interval: int = 2_000

    def unscale(self, parameters: Iterable[Tensor]) -> bool:
        """Divide all gradients by the factor, in place; returns whether they are finite."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        for gradient in gradients:
            gradient.mul_(1 / self.factor)
        return bool(nn.utils.get_total_norm(gradients, torch.inf).isfinite())

    def update(self, finite: bool) -> None:
        """Halve the factor after gradients that were not finite; double it after many that were."""
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.factor /= 2
        elif self.good_steps == self.growth_interval:
            self.factor, self.good_steps = self.factor * 2, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"factor": self.factor, "good_steps": self.good_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ConfigError: it is none.
        """
        self.factor = typed(state["factor"], float, "scale.factor")
        self.good_steps = typed(state["good_steps"], int, "scale.good_steps")
        check_number("scale.factor", self.factor, Limits(0, open=True))
        check_number("scale.good_steps", self.good_steps, Limits(0, self.growth_interval, whole=True))
