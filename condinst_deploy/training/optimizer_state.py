"""State of an optimizer from a file, which is checked before it is used."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from condinst_deploy.errors import ConfigError
from condinst_deploy.shown_text import shown_value

NAMES: dict[type[torch.optim.Optimizer], frozenset[str]] = {
    torch.optim.SGD: frozenset({"momentum_buffer"}),
    torch.optim.AdamW: frozenset({"step", "exp_avg", "exp_avg_sq"}),
    torch.optim.Muon: frozenset({"momentum_buffer"}),
}
"""What each optimizer keeps of a parameter."""

NOT_NEGATIVE = ("step", "exp_avg_sq")


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Go on from a state; settings such as the weight decay stay the optimizer's own.

    Args:
        optimizer: a new one for the same parameters.
        state: `state_dict` of an optimizer of the same kind.

    Raises:
        ConfigError: the state is of other parameters or of another optimizer, or a value is not finite.
        KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError: PyTorch cannot read it.
    """
    own = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, own, strict=True):
        group.clear()
        group.update(settings)
    known = {id(parameter) for group in own for parameter in group["params"]}
    for parameter, values in optimizer.state.items():
        if id(parameter) not in known:
            raise ConfigError(f"a state of the unknown parameter {shown_value(parameter)}")
        _check(parameter, values, NAMES[type(optimizer)])


def _check(parameter: Tensor, values: object, names: frozenset[str]) -> None:
    if not isinstance(values, Mapping) or values.keys() != names:
        found = sorted(map(str, values)) if isinstance(values, Mapping) else values
        raise ConfigError(f"a parameter's state is {shown_value(found)}; expected {', '.join(sorted(names))}")
    for name, value in values.items():
        shape = torch.Size() if name == "step" else parameter.shape
        if not isinstance(value, Tensor) or value.shape != shape or not value.is_floating_point():
            found = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else shown_value(value)
            raise ConfigError(f"{name} of a parameter is {found}; expected floating-point numbers {tuple(shape)}")
        if not value.isfinite().all() or (name in NOT_NEGATIVE and (value < 0).any()):
            raise ConfigError(f"{name} of a parameter has values that are not finite or negative")
