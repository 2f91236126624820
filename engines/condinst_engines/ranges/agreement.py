"""Agreement of a rounded graph with float32 on the images of the range check."""

from collections.abc import Iterable, Mapping
from typing import Any

import onnx

from condinst_deploy.contract import INPUTS, OUTPUTS, NetworkInputs
from condinst_deploy.evaluation.agreement import matched_pairs
from condinst_engines.ranges.measure import session_of
from condinst_engines.slots import Arrays, instances_of
from condinst_export.quantization.agreement import MIN_BOX_IOU

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


def matched_share(reference: list[Arrays], found: list[Arrays]) -> float | None:
    """Share of the reference's detections that have a pair; None: it has none."""
    pairs = total = 0
    for first, second in zip(reference, found, strict=True):
        for image in range(len(first.get("boxes", ()))):
            ours, others = instances_of(first, image), instances_of(second, image)
            total += len(ours.boxes)
            pairs += len(matched_pairs(ours, others, MIN_BOX_IOU))
    return pairs / total if total else None
