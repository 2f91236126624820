"""An exact power-of-two scale between a convolution and the norm behind it.

A norm over groups subtracts a mean and divides by a deviation, so it does not see a positive factor of its input:
norm(2^-k x, 4^-k epsilon) = norm(x, epsilon). With a power of two every product, sum and square root scales exactly,
so both sides have the same bits as long as nothing underflows. The factor goes into weight and bias of the
convolution, where it costs nothing, and float16 gets k more powers of two for the convolution's output.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import onnx_ir as ir

from condinst_deploy.errors import ConfigError
from condinst_engines.precision_policy import Policy

NORMS = ("InstanceNormalization", "GroupNormalization")


@dataclass(frozen=True, eq=False)
class ScaledGroup:
    """Convolutions that share a weight, one a level, and the norms that alone read them."""

    convolutions: tuple[ir.Node, ...]
    norms: tuple[ir.Node, ...]
    between: tuple[ir.Value, ...]  # from the convolutions' outputs to the norms' inputs

    @property
    def weights(self) -> list[ir.Value]:
        """Weight and bias."""
        return [value for value in self.convolutions[0].inputs[1:] if value is not None]

    @property
    def pattern(self) -> str:
        """Matches the convolutions' names."""
        return f"{(self.convolutions[0].name or '').rsplit('/', 1)[0]}/*"


def scalable_groups(graph: ir.Graph) -> Iterator[ScaledGroup]:
    """Groups of convolutions whose output may be scaled by any power of two."""
    seen: set[ir.Value] = set()
    for node in graph:
        weight = node.inputs[1] if node.op_type == "Conv" else None
        if weight is not None and weight not in seen:
            seen.add(weight)
            group = _group(weight)
            if group is not None:
                yield group


def _group(weight: ir.Value) -> ScaledGroup | None:
    """The group of a weight; None if something else than a norm sees the scale."""
    convolutions = tuple(user for user, index in weight.uses() if user.op_type == "Conv" and index == 1)
    if len(convolutions) != len(weight.uses()) or not weight.is_initializer():
        return None
    biases = {node.inputs[2] if len(node.inputs) > 2 else None for node in convolutions}
    bias = next(iter(biases))
    if len(biases) > 1 or (bias is not None and not _belongs(bias, convolutions)):
        return None
    norms: list[ir.Node] = []
    between: list[ir.Value] = []
    for node in convolutions:
        behind, values = _norms_behind(node.outputs[0])
        if not behind:
            return None
        norms += behind
        between += values
    return ScaledGroup(convolutions, tuple(norms), tuple(between))


def _belongs(bias: ir.Value, convolutions: tuple[ir.Node, ...]) -> bool:
    """Return whether only these convolutions use a bias."""
    return bias.is_initializer() and {node for node, _ in bias.uses()} <= set(convolutions)


def _norms_behind(value: ir.Value) -> tuple[list[ir.Node], list[ir.Value]]:
    """The norms that read a value, and the values on the way; none where something else sees its magnitude."""
    norms: list[ir.Node] = []
    pending, between = [value], []
    while pending:
        current = pending.pop()
        between.append(current)
        if current.is_graph_output():
            return [], []
        for user, index in current.uses():
            if user.op_type == "Reshape" and index == 0:
                pending.append(user.outputs[0])
            elif user.op_type in NORMS and index == 0:
                norms.append(user)
            elif user.op_type != "Shape":
                return [], []
    return norms, between


def apply_scales(model: ir.Model, policy: Policy) -> None:
    """Fold the policy's scales into weights, biases and the norms' epsilons.

    Raises:
        ConfigError: a scale names convolutions whose output more than norms see, or loses bits of a weight.
    """
    if not policy.shifts:
        return
    groups = list(scalable_groups(model.graph))
    for pattern, power in policy.shifts:
        named = {node.name for node in model.graph if node.op_type == "Conv" and fnmatchcase(node.name or "", pattern)}
        chosen = [group for group in groups if any(node.name in named for node in group.convolutions)]
        if not named or named != {node.name for group in chosen for node in group.convolutions}:
            raise ConfigError(
                f"policy.scale has {pattern}:{power}, which does not name whole groups of convolutions that share a"
                " weight and are read by norms alone; a scale would change what the model computes"
            )
        for group in chosen:
            _scale(group, power)


def _scale(group: ScaledGroup, power: int) -> None:
    for value in group.weights:
        assert value.const_value is not None
        exact = value.const_value.numpy()
        scaled = np.ldexp(exact, -power)
        if not np.array_equal(np.ldexp(scaled, power), exact):
            raise ConfigError(f"policy.scale: 2^-{power} loses bits of {value.name}; use a smaller power")
        value.const_value = ir.Tensor(scaled, name=value.name)
    for value in group.between:
        value.name = f"{value.name}_scaled_{power}"  # another tensor than that of the same name without the scale
    for norm in group.norms:
        epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
        norm.attributes["epsilon"] = ir.AttrFloat32("epsilon", float(np.ldexp(np.float32(epsilon), -2 * power)))
