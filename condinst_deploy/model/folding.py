"""BatchNorm folded into the convolutions before it: the same function, one pass over memory less for each norm."""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(model: nn.Module) -> int:
    """Fold every BatchNorm of a model in evaluation mode into its convolution, in place.

    Returns:
        The number of norms that were folded.

    Raises:
        ValueError: a BatchNorm has no convolution before it.
    """
    folded = sum(_fold_children(module) for module in list(model.modules()))
    left = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if left:
        raise ValueError(f"no convolution stands before {', '.join(left[:5])}")
    return folded


@torch.no_grad()
def _fold_children(module: nn.Module) -> int:
    """Fold norms among a module's children: `bn1` into `conv1`, or a norm into the convolution before it."""
    children = list(module.named_children())
    folded = 0
    for name, child in children:
        if not isinstance(child, nn.BatchNorm2d):
            continue
        before = _convolution_before(name, children)
        if before is None:
            continue
        conv = module.get_submodule(before)
        assert isinstance(conv, nn.Conv2d)
        module.add_module(before, fuse_conv_bn_eval(conv, child))
        module.add_module(name, nn.Identity())
        folded += 1
    return folded


def _convolution_before(norm: str, children: list[tuple[str, nn.Module]]) -> str | None:
    """Name of the convolution that a norm follows."""
    names = {name: child for name, child in children if isinstance(child, nn.Conv2d)}
    if norm.startswith("bn") and f"conv{norm[2:]}" in names:
        return f"conv{norm[2:]}"
    if norm == "norm" and "conv" in names:
        return "conv"
    order = [name for name, _ in children]
    previous = order[order.index(norm) - 1] if order.index(norm) else ""
    return previous if previous in names else None
