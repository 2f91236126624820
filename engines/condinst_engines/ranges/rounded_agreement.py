"""Agreement of a rounded graph with float32 on the images of the range check."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from condinst_deploy.contract import INPUTS, OUTPUTS, NetworkInputs
from condinst_deploy.evaluation.agreement import Instances, matched_pairs
from condinst_engines.ranges.magnitudes import session_of
from condinst_engines.slots import Arrays, instances_of
from condinst_export.quantization.quantized_agreement import MIN_BOX_IOU

KEPT = ("num_detections", "boxes", "scores", "labels")


def kept_outputs(outputs: Mapping[str, Any]) -> Arrays:
    """Return the compared outputs of a run; empty if the graph is not a whole network."""
    return {name: outputs[name] for name in KEPT} if set(OUTPUTS) <= outputs.keys() else {}


def float32_outputs(proto: onnx.ModelProto, images: Iterable[NetworkInputs]) -> list[Arrays]:
    """Return the exported file's outputs of every batch."""
    session = session_of(proto)
    names = [output.name for output in proto.graph.output]
    return [
        kept_outputs(dict(zip(names, session.run(None, dict(zip(INPUTS, batch, strict=True))), strict=True)))
        for batch in images
    ]


@dataclass(frozen=True)
class Found:
    """How many of float32's detections a graph has, too."""

    pairs: int
    total: int

    @property
    def share(self) -> float | None:
        """None: float32 has none."""
        return self.pairs / self.total if self.total else None


def found_of(reference: list[Arrays], others: list[Arrays]) -> Found:
    """Pairs of detections of all batches; boxes without area do not count: the least error leaves them no overlap."""
    pairs = total = 0
    for first, second in zip(reference, others, strict=True):
        for image in range(len(first.get("boxes", ()))):
            ours, theirs = (_with_area(instances_of(outputs, image)) for outputs in (first, second))
            total += len(ours.boxes)
            pairs += len(matched_pairs(ours, theirs, MIN_BOX_IOU))
    return Found(pairs, total)


def _with_area(found: Instances) -> Instances:
    kept = (found.boxes[:, 2:] > found.boxes[:, :2]).all(axis=1)
    return Instances(found.boxes[kept], found.scores[kept], found.labels[kept], found.areas[kept], rles=None)
