"""Decisions about half tensors that come close to the largest number of their type.

First an exact scale before a norm (`norm_scale.py`). Else bfloat16, or float32 where there is no bfloat16, for the
nodes that make and read the tensor. Else a refusal that names the node.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from condinst_deploy.contract.engine_ranges import HandledNode
from condinst_deploy.contract.precision import Precision
from condinst_deploy.errors import EngineError
from condinst_engines.norm_scale import ScaledGroup, scalable_groups
from condinst_engines.precision_policy import LARGEST_SHIFT, WORDS_SHOWN, Policy
from condinst_engines.ranges.magnitudes import HalfTensor, Magnitudes

MARGIN = 4.0
"""Room between what was seen and the largest number of the type: other images reach further."""

LARGEST: dict[ir.DataType, float] = {
    ir.DataType.FLOAT16: 65504.0,
    ir.DataType.BFLOAT16: float(np.finfo(np.float32).max) / (1 + 2**-8),  # a little less than the type's own
}

LEAST_USEFUL = 2.0**-3
"""Largest magnitude of an image's tensor after a scale: 2^-11 of it, float16's last digit, is then a normal number."""

WEIGHT_ERROR = 2.0**-11
"""Largest error of a scaled weight in float16, as a share of the largest weight: what rounding costs that one."""


@dataclass(frozen=True)
class Setting:
    """Inputs of decisions besides magnitudes."""

    precision: Precision
    user: Policy  # as it was given: its lines are not overruled
    spare: Literal["bf16", "fp32"]  # level of nodes that float16 does not hold

    def limit(self, kind: ir.DataType) -> float:
        """Magnitude from which a tensor is handled."""
        return LARGEST[kind] / MARGIN


@dataclass(frozen=True)
class Decision:
    """A policy, and what was done to come to it."""

    policy: Policy
    handled: tuple[HandledNode, ...] = ()


def over_limit(tensors: Iterable[HalfTensor], largest: Mapping[str, float], setting: Setting) -> list[HalfTensor]:
    """The tensors that have to be handled, in the graph's order."""
    return [tensor for tensor in tensors if not largest[tensor.name] < setting.limit(tensor.kind)]


def decide(
    proto: onnx.ModelProto, tensors: Sequence[HalfTensor], magnitudes: Magnitudes, policy: Policy, setting: Setting
) -> Decision:
    """Handle all tensors that are over the limit.

    Args:
        proto: the exported file.
        tensors: of the graph by `policy`.
        magnitudes: of the tensors.
        policy: so far.
        setting: what else decides.

    Raises:
        EngineError: a tensor cannot be handled; the message names the node.
    """
    over = over_limit(tensors, magnitudes.largest, setting)
    infinite = [tensor for tensor in over if not np.isfinite(magnitudes.largest[tensor.name])]
    if infinite:
        raise _refusal(infinite[0], magnitudes, "it is not finite in float32 either; check the checkpoint")
    scaled = _scales(proto, tensors, magnitudes, policy, setting)
    settled = _settled(tensors, scaled)
    moved: dict[str, float] = {}
    for tensor in (tensor for tensor in over if tensor.name not in settled):
        names = [name for name in (*tensor.makers, *tensor.readers) if _is_half(name, policy, setting)]
        kept = [name for name in names if named_by_user(name, setting)]
        if kept or not names:
            reason = "the recipe's [policy] keeps it there; give it another level" if kept else "no node can be moved"
            raise _refusal(tensor, magnitudes, reason)
        for name in names:
            moved[name] = max(moved.get(name, 0.0), magnitudes.largest[tensor.name])
    policy = _with_scales(policy, [(group, power) for group, power, _ in scaled])
    handled = [HandledNode(group.pattern, magnitude, "scale", power) for group, power, magnitude in scaled]
    return _moved(Decision(policy, tuple(handled)), moved, setting)


def fit_weights(proto: onnx.ModelProto, policy: Policy, setting: Setting) -> Decision:
    """Handle weights that float16 cannot hold; they are known without an image."""
    model = ir.from_proto(proto)
    groups = {node.name: group for group in scalable_groups(model.graph) for node in group.convolutions}
    decision, moved = Decision(policy), dict[str, float]()
    for value in model.graph.initializers.values():
        if value.dtype != ir.DataType.FLOAT or value.const_value is None:
            continue
        largest = float(np.abs(value.const_value.numpy()).max(initial=0.0))
        users = [user.name or "" for user, _ in value.uses()]
        users = [name for name in users if _type(name, decision.policy, setting) == "float16"]
        if not users or largest <= LARGEST[ir.DataType.FLOAT16] or not np.isfinite(largest):
            continue
        group = groups.get(users[0])
        power = math.ceil(math.log2(largest / LARGEST[ir.DataType.FLOAT16]))
        if group is not None and power <= LARGEST_SHIFT and _weights_fit(group, power):
            node = HandledNode(group.pattern, largest, "scale", power)
            decision = Decision(_with_scales(decision.policy, [(group, power)]), (*decision.handled, node))
        else:
            moved |= dict.fromkeys((name for name in users if not named_by_user(name, setting)), largest)
    return _moved(decision, moved, setting)


def _moved(decision: Decision, moved: Mapping[str, float], setting: Setting) -> Decision:
    """Give nodes the spare level, and float32 to those that have it already."""
    policy, handled = decision.policy, list(decision.handled)
    for name, magnitude in moved.items():
        level = "fp32" if _type(name, policy, setting) == "bfloat16" else setting.spare
        policy = policy.with_level(level, [name])
        handled.append(HandledNode(name, magnitude, "float32" if level == "fp32" else "bfloat16"))
    return Decision(policy, tuple(handled))


def _type(node: str, policy: Policy, setting: Setting) -> Precision:
    return policy.rule_for(node).type_for(setting.precision)


def _is_half(node: str, policy: Policy, setting: Setting) -> bool:
    return _type(node, policy, setting) != "float32"


def named_by_user(node: str, setting: Setting) -> bool:
    """Whether a line of the user's policy keeps a node in half."""
    rule = setting.user.rule_for(node)
    return rule in setting.user.own_rules and rule.level in ("fp16", "half")


def _scales(
    proto: onnx.ModelProto, tensors: Sequence[HalfTensor], magnitudes: Magnitudes, policy: Policy, setting: Setting
) -> list[tuple[ScaledGroup, int, float]]:
    """Groups of convolutions to scale, by which power of two, and what their outputs reach."""
    made = {tensor.makers[0]: tensor for tensor in reversed(tensors) if tensor.makers}
    limit = setting.limit(ir.DataType.FLOAT16)
    found = []
    for group in scalable_groups(ir.from_proto(proto).graph):
        own = [made[node.name or ""] for node in group.convolutions if node.name in made]
        own = [tensor for tensor in own if tensor.kind == ir.DataType.FLOAT16]
        largest = max((magnitudes.largest[tensor.name] for tensor in own), default=0.0)
        if largest < limit:
            continue
        power = max(1, math.ceil(math.log2(largest / limit)))
        power += power == math.log2(largest / limit)  # the limit itself is over
        quietest = min(magnitudes.quietest[tensor.name] for tensor in own)
        total = power + _power_of(group, policy)
        if np.ldexp(quietest, -power) >= LEAST_USEFUL and total <= LARGEST_SHIFT and _weights_fit(group, total):
            found.append((group, power, largest))
    return found


def _weights_fit(group: ScaledGroup, power: int) -> bool:
    """Return whether scaled weights keep float16's digits, and their bits in float32."""
    for value in group.weights:
        assert value.const_value is not None
        exact: npt.NDArray[np.float32] = value.const_value.numpy()
        scaled = np.ldexp(exact, -power)
        error = np.abs(scaled.astype(np.float16).astype(np.float32) - scaled).max(initial=0.0)
        if not error <= WEIGHT_ERROR * np.abs(scaled).max(initial=0.0) or not np.array_equal(
            np.ldexp(scaled, power), exact
        ):
            return False
    return True


def _settled(tensors: Sequence[HalfTensor], scaled: Sequence[tuple[ScaledGroup, int, float]]) -> set[str]:
    """Tensors that the scales bring below the limit: the convolutions' outputs, and what moves their elements."""
    nodes = {node.name for group, _, _ in scaled for node in group.convolutions}
    settled: set[str] = set()
    for tensor in tensors:
        if (tensor.makers and tensor.makers[0] in nodes) or tensor.bound_by in settled:
            settled.add(tensor.name)
    return settled


def _power_of(group: ScaledGroup, policy: Policy) -> int:
    return dict(policy.shifts).get(group.pattern, 0)


def _with_scales(policy: Policy, scaled: Sequence[tuple[ScaledGroup, int]]) -> Policy:
    shifts = dict(policy.shifts)
    for group, power in scaled:
        shifts[group.pattern] = shifts.get(group.pattern, 0) + power
    return replace(policy, scale=tuple(f"{pattern}:{power}" for pattern, power in shifts.items()))


def _refusal(tensor: HalfTensor, magnitudes: Magnitudes, reason: str) -> EngineError:
    node = ", ".join((*tensor.makers, *tensor.readers)[:WORDS_SHOWN])
    return EngineError(
        f"node {node} reaches {magnitudes.largest[tensor.name]:g} in {tensor.kind.name.lower()}, which holds"
        f" {LARGEST[tensor.kind]:g} at most: {reason}. No engine was built"
    )
