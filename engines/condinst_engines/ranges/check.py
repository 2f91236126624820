"""The range check of a half build: measure, handle, measure again, until every half tensor is within its limits."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.inliner

from condinst_deploy.contract.engine_ranges import CheckedRanges, HandledNode
from condinst_deploy.errors import EngineError
from condinst_engines.policy import WORDS_SHOWN, Policy
from condinst_engines.precision import TYPES, converted
from condinst_engines.ranges.decide import Decision, Setting, decide, fit_weights, over_limit
from condinst_engines.ranges.images import InputsHash, RangeImages
from condinst_engines.ranges.measure import Magnitudes, Measurement

MOST_ROUNDS = 8
"""Rounds of handling; each one can bring new tensors over the limit only behind nodes that it moved."""

OnShare = Callable[[float], None]


@dataclass
class RangeCheck:
    """One check; `handled` grows with the rounds."""

    proto: onnx.ModelProto
    images: RangeImages
    setting: Setting
    on_progress: OnShare = lambda share: None
    handled: list[HandledNode] = field(default_factory=list)

    def run(self) -> tuple[Policy, CheckedRanges]:
        """Find a policy whose graph is finite and within limits on the images.

        Returns:
            The user's policy with the lines that the check added, and what was measured with it.

        Raises:
            EngineError: a tensor cannot be handled; the message names the node.
        """
        policy = self._taken(fit_weights(self.proto, self.setting.user, self.setting))
        for _ in range(MOST_ROUNDS):
            measurement, digest, over = self._measured(policy, rounding=True)
            if not over:
                return policy, self._report(policy, measurement, digest)
            exact, _, _ = self._measured(policy, rounding=False)
            magnitudes = _joined(exact.magnitudes, measurement.magnitudes)
            policy = self._taken(decide(self.proto, exact.tensors, magnitudes, policy, self.setting))
        names = ", ".join(dict.fromkeys(over[:WORDS_SHOWN]))
        raise EngineError(
            f"nodes {names} are still out of range after {MOST_ROUNDS} rounds of handling; keep them in float32"
            " (fp32 under [policy] in a recipe). No engine was built"
        )

    def _taken(self, decision: Decision) -> Policy:
        self.handled += decision.handled
        return decision.policy

    def _measured(self, policy: Policy, *, rounding: bool) -> tuple[Measurement, str, list[str]]:
        """Run the images; with rounding, no further than to the first that overflows.

        Returns:
            The measurement, the images' hash, and the nodes that are over the limit.
        """
        graph = onnx.inliner.inline_local_functions(converted(self.proto, self.setting.precision, policy))
        measurement, digest, total = Measurement(graph, rounding=rounding), InputsHash(), len(self.images)
        over: list[str] = []
        for i, batch in enumerate(self.images):
            self.on_progress(i / total)
            outputs = measurement.add(batch)
            digest.add(batch)
            if rounding and (over := self._over(measurement, outputs)):
                break
        return measurement, digest.hexdigest(), over

    def _over(self, measurement: Measurement, outputs: dict[str, np.ndarray]) -> list[str]:
        tensors = over_limit(measurement.tensors, measurement.magnitudes.largest, self.setting)
        broken = [name for name, value in outputs.items() if not np.isfinite(value).all()]
        return [tensor.makers[0] if tensor.makers else tensor.name for tensor in tensors] or broken

    def _report(self, policy: Policy, measurement: Measurement, digest: str) -> CheckedRanges:
        largest = measurement.magnitudes.largest
        blocks: dict[str, float] = {}
        kind = TYPES[self.setting.precision]
        for tensor in (tensor for tensor in measurement.tensors if tensor.kind == kind):
            block = block_of(tensor.makers[0] if tensor.makers else tensor.name)
            blocks[block] = max(blocks.get(block, 0.0), largest[tensor.name])
        own = {name: getattr(policy, name) for name in ("fp32", "float32", "bf16", "fp16", "half", "scale")}
        return CheckedRanges(
            source=self.images.source,
            images=len(self.images),
            images_sha256=digest,
            limit=self.setting.limit(kind),
            blocks=blocks,
            handled=_last(self.handled),
            policy={name: lines for name, lines in own.items() if lines},
        )


def block_of(node: str) -> str:
    """`backbone.layer1.0.conv1/Conv` -> `backbone.layer1`: the part of the network that a node belongs to."""
    return ".".join(node.split("/", 1)[0].split(".")[:2])


def _joined(exact: Magnitudes, other: Magnitudes) -> Magnitudes:
    """True magnitudes, and those of rounded tensors where these are finite and larger."""
    larger = {name: value for name, value in other.largest.items() if np.isfinite(value)}
    return Magnitudes(
        {name: max(value, larger.get(name, 0.0)) for name, value in exact.largest.items()}, exact.quietest
    )


def _last(handled: Iterable[HandledNode]) -> tuple[HandledNode, ...]:
    """What was done to each node in the end: powers of two add up."""
    found: dict[str, HandledNode] = {}
    for node in handled:
        before = found.get(node.node)
        if before is not None and before.handling == node.handling == "scale":
            node = HandledNode(node.node, max(node.magnitude, before.magnitude), "scale", node.power + before.power)
        found[node.node] = node
    return tuple(found.values())
