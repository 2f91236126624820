"""The optimizers that recipes name."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from condinst_deploy.model.condinst import CondInst
from condinst_deploy.training.optimizer_state import load_optimizer_state
from condinst_deploy.training.recipe import OptimizerSettings

NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm)

Groups = list[dict[str, Any]]


class MuonAndAdamW:
    """Muon for the convolutions inside the network, AdamW for everything else.

    Muon makes every update of a matrix orthogonal, so that all its directions learn, not only the loudest; from
    scratch that needs about two thirds of AdamW's steps. What reads pixels or gives predictions has rows that stand
    for something, and norms and biases are no matrices: these are AdamW's, as Muon's authors advise.

    References:
        Keller Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024); the update's size
        is AdamW's (arXiv 2502.16982).
    """

    def __init__(self, model: CondInst, settings: OptimizerSettings) -> None:
        self._convolutions = _inner_convolutions(model)
        # torch's Muon takes matrices only: these share the convolutions' memory
        self._matrices = [nn.Parameter(_as_matrix(weight.detach(), weight)) for weight in self._convolutions]
        self._muon = torch.optim.Muon(
            [{"params": self._matrices, "factor": settings.muon_factor}],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = _adamw(_groups(model, settings, without=self._convolutions), settings)

    @property
    def param_groups(self) -> Groups:
        """Groups of both."""
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for matrix, weight in zip(self._matrices, self._convolutions, strict=True):
            matrix.grad = weight.grad = None
        self._adamw.zero_grad(set_to_none=set_to_none)

    def step(self) -> None:
        """Change the weights in place."""
        for matrix, weight in zip(self._matrices, self._convolutions, strict=True):
            matrix.grad = None if weight.grad is None else _as_matrix(weight.grad, weight)
        self._muon.step()
        self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of both."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ConfigError: it is of other parameters, or has values that are not finite.
        """
        load_optimizer_state(self._muon, state["muon"])
        load_optimizer_state(self._adamw, state["adamw"])


Optimizer = torch.optim.Optimizer | MuonAndAdamW


def optimizer_of(model: CondInst, settings: OptimizerSettings) -> Optimizer:
    """The optimizer over everything that learns; norms and biases decay only where the recipe says so."""
    if settings.kind == "muon":
        return MuonAndAdamW(model, settings)
    groups = _groups(model, settings)
    if settings.kind == "sgd":
        return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, fused=True)
    return _adamw(groups, settings)


def _adamw(groups: Groups, settings: OptimizerSettings) -> torch.optim.Optimizer:
    # one kernel for all tensors: a quarter of the time on a CPU, where there are many small ones
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, fused=True)


def _groups(model: nn.Module, settings: OptimizerSettings, without: Sequence[Tensor] = ()) -> Groups:
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    left_out = {id(parameter) for parameter in without}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) not in left_out:
                of_norm = isinstance(module, NORMS)
                spared = (of_norm and not settings.decay_norms) or (
                    (of_norm or name == "bias" or parameter.ndim == 0) and not settings.decay_norms_and_biases
                )
                (free if spared else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def _inner_convolutions(model: CondInst) -> list[Tensor]:
    """Weights of all convolutions that learn, but the first and the predictors."""
    head = model.head
    outer: set[nn.Module] = {model.backbone.conv1, head.cls_logits, head.box_pred, head.centerness, head.controller}
    if model.mask_branch.semantic is not None:
        outer.add(model.mask_branch.semantic[-1])
    return [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module not in outer and module.weight.requires_grad
    ]


def _as_matrix(x: Tensor, weight: Tensor) -> Tensor:
    """`x (out, in, h, w)` as `(out, in * h * w)`; a view where `x` lies in memory as `weight` does."""
    return x.flatten(1) if weight.is_contiguous() else x.permute(0, 2, 3, 1).flatten(1)
