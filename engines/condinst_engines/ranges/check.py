"""The range check of a half build: measure, handle, measure again, until every half tensor is within its limits."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase

import numpy as np
import onnx
import onnx.inliner

from condinst_deploy.contract.engine_ranges import CheckedRanges, HandledNode
from condinst_deploy.errors import EngineError
from condinst_engines.mixed_precision import TYPES, converted
from condinst_engines.precision_policy import WORDS_SHOWN, Policy
from condinst_engines.ranges.decide import Decision, Setting, decide, fit_weights, named_by_user, over_limit
from condinst_engines.ranges.magnitudes import Magnitudes, Measurement
from condinst_engines.ranges.range_images import RangeImages
from condinst_engines.ranges.rounded_agreement import Found, float32_outputs, found_of, kept_outputs
from condinst_engines.ranges.work import half_share
from condinst_engines.slots import Arrays
from condinst_export.quantization.calibration_images import InputsHash

MOST_ROUNDS = 8
"""Rounds of handling; each one can bring new tensors over the limit only behind nodes that it moved."""

BFLOAT16_MATCHES = 0.99
"""Share of float32's detections from which generated bfloat16 is good enough; below, its nodes go to float32."""

FLOAT16_MATCHES = 0.97
"""Share of float32's detections that a float16 graph must have; below, a part of the network goes to float32."""

FEWEST_JUDGED = 50
"""Detections of float32 from which that share says something."""

PARTS = ("backbone*", "fpn*", "head*", "mask_branch*")
"""Parts that are tried one by one if rounding costs too many detections: many small errors have no single node."""

OnShare = Callable[[float], None]


@dataclass(frozen=True)
class Pass:
    """One pass over the images."""

    graph: onnx.ModelProto  # of mixed precision, functions inlined
    measurement: Measurement
    images_sha256: str
    over: list[str]  # nodes that are over the limit
    outputs: list[Arrays]  # of every batch, without masks


@dataclass
class RangeCheck:
    """One check; `handled` grows with the rounds."""

    proto: onnx.ModelProto
    images: RangeImages
    setting: Setting
    on_progress: OnShare = lambda share: None
    handled: list[HandledNode] = field(default_factory=list)
    reference: list[Arrays] = field(default_factory=list)  # float32's outputs, once they are wanted

    def run(self) -> tuple[Policy, CheckedRanges]:
        """Find a policy whose graph is finite and within limits on the images.

        Returns:
            The user's policy with the lines that the check added, and what was measured with it.

        Raises:
            EngineError: a tensor cannot be handled; the message names the node.
            ImageError: an image cannot be read.
        """
        policy = self._taken(fit_weights(self.proto, self.setting.user, self.setting))
        for _ in range(MOST_ROUNDS):
            rounded = self._pass(policy, rounding=True)
            if rounded.over:
                before, policy = policy, self._handle(policy, rounded.measurement.magnitudes)
                if policy == before:
                    break
                continue
            found = self._found(rounded)
            spare = [node for node in _last(self.handled) if node.handling == "bfloat16"]
            if spare and found.share is not None and found.share < BFLOAT16_MATCHES:
                policy = self._in_float32(policy, spare)
                continue
            if self._costs_too_much(found):
                policy, rounded, found = self._with_a_part_in_float32(policy, found)
            return policy, self._report(policy, rounded, found)
        names = ", ".join(dict.fromkeys(rounded.over[:WORDS_SHOWN]))
        raise EngineError(
            f"node {names} reaches values out of range, although {len(self.handled)} nodes were handled; keep it in"
            " float32 (fp32 under [policy] in a recipe). No engine was built"
        )

    def _handle(self, policy: Policy, rounded: Magnitudes) -> Policy:
        """Decide by true magnitudes: what overflowed hides those of all nodes behind it."""
        exact = self._pass(policy, rounding=False).measurement
        magnitudes = _joined(exact.magnitudes, rounded)
        return self._taken(decide(self.proto, exact.tensors, magnitudes, policy, self.setting))

    def _in_float32(self, policy: Policy, nodes: list[HandledNode]) -> Policy:
        """Move nodes on from bfloat16, which costs too many detections."""
        self.setting = replace(self.setting, spare="fp32")
        self.handled += [replace(node, handling="float32") for node in nodes]
        return policy.with_level("fp32", [node.node for node in nodes])

    def _costs_too_much(self, found: Found) -> bool:
        """Return whether rounding to float16 alone loses detections; bfloat16's loss is reported, not refused."""
        enough = self.setting.precision == "float16" and found.total >= FEWEST_JUDGED
        return enough and found.pairs < FLOAT16_MATCHES * found.total

    def _with_a_part_in_float32(self, policy: Policy, found: Found) -> tuple[Policy, Pass, Found]:
        """The first part that brings the detections back; lines of the user are not overruled."""
        largest = ""
        for part in PARTS:
            names = [node.name for node in self.proto.graph.node if fnmatchcase(node.name, part)]
            if not names or any(named_by_user(name, self.setting) for name in names):
                continue
            candidate = policy.with_level("fp32", [part])
            rounded = self._pass(candidate, rounding=True)
            if not rounded.over and not self._costs_too_much(better := self._found(rounded)):
                self.handled.append(HandledNode(part, 0.0, "float32", matched=found.share))
                return candidate, rounded, better
            largest = largest or names[0]
        raise EngineError(
            f"node {largest or self.proto.graph.node[0].name} and those behind it lose detections in float16: only"
            f" {found.pairs} of float32's {found.total} are matched on the images ({self.images.source}), expected"
            f" {FLOAT16_MATCHES:.0%}, and no part of the network in float32 brings them back. Give images of the kind"
            " that the model will see (--calibration), or build with --fp32. No engine was built"
        )

    def _found(self, rounded: Pass) -> Found:
        if not self.reference:
            self.reference = float32_outputs(self.proto, self.images)
        return found_of(self.reference, rounded.outputs)

    def _taken(self, decision: Decision) -> Policy:
        self.handled += decision.handled
        return decision.policy

    def _pass(self, policy: Policy, *, rounding: bool) -> Pass:
        """Run the images; with rounding, stop at the first that overflows."""
        graph = onnx.inliner.inline_local_functions(converted(self.proto, self.setting.precision, policy))
        measurement, digest, total = Measurement(graph, rounding=rounding), InputsHash(), len(self.images)
        over: list[str] = []
        kept: list[Arrays] = []
        for i, batch in enumerate(self.images):
            self.on_progress(i / total)
            outputs = measurement.add(batch)
            digest.add(batch)
            kept.append(kept_outputs(outputs))
            if rounding and (over := self._over(measurement, outputs)):
                break
        return Pass(graph, measurement, digest.hexdigest(), over, kept)

    def _over(self, measurement: Measurement, outputs: Arrays) -> list[str]:
        tensors = over_limit(measurement.tensors, measurement.magnitudes.largest, self.setting)
        broken = [name for name, value in outputs.items() if not np.isfinite(value).all()]
        return [tensor.makers[0] if tensor.makers else tensor.name for tensor in tensors] or broken

    def _report(self, policy: Policy, rounded: Pass, found: Found) -> CheckedRanges:
        kind = TYPES[self.setting.precision]
        largest, blocks = rounded.measurement.magnitudes.largest, dict[str, float]()
        for tensor in (tensor for tensor in rounded.measurement.tensors if tensor.kind == kind):
            block = block_of(tensor.makers[0] if tensor.makers else tensor.name)
            blocks[block] = max(blocks.get(block, 0.0), largest[tensor.name])
        own = {name: getattr(policy, name) for name in (own.name for own in fields(policy))}
        return CheckedRanges(
            source=self.images.source,
            images=len(rounded.outputs),
            images_sha256=rounded.images_sha256,
            limit=self.setting.limit(kind),
            blocks=blocks,
            matched=found.share,
            half_work=half_share(rounded.graph, next(iter(self.images))),
            handled=_last(self.handled),
            policy={name: lines for name, lines in own.items() if lines},
        )


def block_of(node: str) -> str:
    """`backbone.layer1.0.conv1/Conv` -> `backbone.layer1`: the part of the network that a node belongs to."""
    return ".".join(node.split("/", 1)[0].split(".")[:2])


def _joined(exact: Magnitudes, rounded: Magnitudes) -> Magnitudes:
    """True magnitudes, and those of rounded tensors where these are finite and larger."""
    larger = {name: value for name, value in rounded.largest.items() if np.isfinite(value)}
    largest = {name: max(value, larger.get(name, 0.0)) for name, value in exact.largest.items()}
    return Magnitudes(largest, exact.quietest)


def _last(handled: Iterable[HandledNode]) -> tuple[HandledNode, ...]:
    """Return the final action for each node: powers of two add up."""
    found: dict[str, HandledNode] = {}
    for node in handled:
        before = found.get(node.node)
        if before is not None and before.handling == node.handling == "scale":
            node = replace(node, magnitude=max(node.magnitude, before.magnitude), power=node.power + before.power)
        found[node.node] = node
    return tuple(found.values())
