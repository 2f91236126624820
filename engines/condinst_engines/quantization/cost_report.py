"""Cost of 8 bits: the quantised graph against the float32 graph, on held-out images.

Average precision hardly sees the difference (ranges from random pixels give nearly the same), so detections are
compared one by one: matched share, mask IoU and boxes, by size, and the layers that differ most.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import onnx

from condinst_deploy.contract import DRAWN_ABOVE, InstanceDetections, ModelManifest
from condinst_deploy.contract.quantization import HeldOutAgreement
from condinst_deploy.errors import EngineError
from condinst_deploy.evaluation.comparison import SIZES, agreement_metrics, compare
from condinst_deploy.evaluation.evaluate_models import evaluate
from condinst_deploy.evaluation.sources import EvaluationOptions
from condinst_deploy.runtime.coco_results import write_json
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.shown_text import counted
from condinst_engines.quantization.insert import Scales
from condinst_engines.tensor_comparison import compare as compare_tensors
from condinst_export.graph_session import graph_session
from condinst_export.quantization.calibration_images import ImageSet
from condinst_export.quantization.quantized_agreement import agreement_between, detections_of

METRICS = "quantization.json"

LAYERS_SHOWN = 10
LAYER_IMAGES = 2
"""Images on which layers are compared: every tensor of a run is held in memory."""

SENSITIVITY_IMAGES = 16

Simulated = Callable[[Scales], onnx.ModelProto]
"""The builder's graph with some scales, as ONNX Runtime can run it: every half tensor rounded."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Detections of both graphs on the held-out images."""

    agreement: HeldOutAgreement
    reference: list[InstanceDetections]  # of the float32 graph, an entry an image
    other: list[InstanceDetections]  # of the quantised graph


@dataclass(frozen=True)
class GroupCost:
    """A group of convolutions, alone in 8 bits."""

    group: str
    convolutions: int
    agreement: HeldOutAgreement

    def __str__(self) -> str:
        masks = self.agreement.median_mask_iou
        iou = "" if masks is None else f", median mask IoU {masks:.4f}"
        size = counted(self.convolutions, "convolution")
        return f"{self.group} ({size}) alone: {self.agreement.matched_share:.1%} matched{iou}"


def judged(
    reference: onnx.ModelProto,
    quantized: onnx.ModelProto,
    images: ImageSet,
    on_share: Callable[[float], None] = lambda share: None,
) -> Judged:
    """Run both graphs on images.

    Args:
        reference: the float32 file.
        quantized: its simulation in 8 bits.
        images: that were not calibrated on.
        on_share: called with the share that is done.

    Raises:
        EngineError: ONNX Runtime cannot run the quantised graph.
        ImageError: an image cannot be read.
        VerificationError: a graph gives NaN.
    """
    total = 2 * len(images)
    with simulation_backend(reference, images.manifest) as backend:
        first = detections_of(backend, images, lambda done: on_share(done / total))
    with simulation_backend(quantized, images.manifest) as backend:
        second = detections_of(backend, images, lambda done: on_share((len(images) + done) / total))
    return Judged(agreement_between(first, second), first, second)


def simulation_backend(proto: onnx.ModelProto, manifest: ModelManifest) -> OnnxRuntimeBackend:
    """A graph on the CPU; one with FP8 is optimised only as far as ONNX Runtime computes it correctly.

    Raises:
        EngineError: ONNX Runtime cannot run it.
    """
    session = graph_session(
        proto, lambda reason: EngineError(f"ONNX Runtime cannot run the quantised graph to judge it ({reason})")
    )
    return OnnxRuntimeBackend(session, manifest, "cpu", "the graph")


def group_of(convolution: str) -> str:
    """`head.box_tower.0.conv/Conv_3` -> `head.box_tower.0`, `backbone.layer3.4.conv2/Conv` -> `backbone.layer3`."""
    parts = convolution.split("/", 1)[0].split(".")
    return ".".join(parts[: 3 if parts[0] == "head" else 2])


def sensitivity(
    judged_before: Judged, convolutions: Sequence[str], scales: Scales, simulated: Simulated, images: ImageSet
) -> Iterator[GroupCost]:
    """The cost of each group of convolutions alone, the rest in half, on the first held-out images.

    Args:
        judged_before: whose float32 detections are taken.
        convolutions: names of all that are quantised.
        scales: of all of them.
        simulated: makes a graph.
        images: the same that `judged_before` is of.
    """
    few = replace(images, paths=images.paths[:SENSITIVITY_IMAGES])
    reference = judged_before.reference[: len(few)]
    groups: dict[str, list[str]] = {}
    for name in convolutions:
        groups.setdefault(group_of(name), []).append(name)
    for group, names in groups.items():
        with simulation_backend(simulated(replace(scales, only=frozenset(names))), images.manifest) as backend:
            yield GroupCost(group, len(names), agreement_between(reference, detections_of(backend, few)))


def ranked(costs: Sequence[GroupCost]) -> list[GroupCost]:
    """Sort the most expensive first: by matched share, then by mask IoU."""
    return sorted(costs, key=lambda cost: (cost.agreement.matched_share, cost.agreement.median_mask_iou or 0.0))


def worst_layers(reference: onnx.ModelProto, quantized: onnx.ModelProto, images: ImageSet) -> list[dict[str, Any]]:
    """The layers' tensors with the largest relative error; those behind a top-k are left out."""
    found = compare_tensors(reference, quantized, list(islice(images, LAYER_IMAGES))).errors
    layers = [error for error in found if not error.is_output and not error.by_slot]
    return [
        {"node": error.node, "relative_error": error.relative, "largest_error": error.largest}
        for error in layers[:LAYERS_SHOWN]
    ]


def by_size(found: Judged) -> dict[str, dict[str, Any]]:
    """Agreement over all sizes, and for each."""
    first, second = ({i: one.to_coco(i) for i, one in enumerate(side)} for side in (found.reference, found.other))
    comparison = compare(first, second, range(len(found.reference)))
    return {"all": agreement_metrics(comparison.whole)} | {
        size: agreement_metrics(comparison.by_size[size]) for size in SIZES
    }


def write_report(
    folder: Path, name: str, found: Judged, images: ImageSet, layers: list[dict[str, Any]], costs: Sequence[GroupCost]
) -> Path:
    """Write quantization.json, and report.html by the evaluation: there, float32's own detections are the ground truth.

    Args:
        folder: is made; files of the same names are replaced.
        name: of the quantised side, int8 or fp8.
        found: on the held-out images.
        images: those.
        layers: of `worst_layers`.
        costs: of `sensitivity`; empty: not measured.

    Returns:
        The HTML file.

    Raises:
        OutputError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / METRICS,
        {
            "agreement": asdict(found.agreement),
            "by_size": by_size(found),
            "worst_layers": layers,
            "sensitivity": [asdict(cost) for cost in ranked(costs)],
        },
    )
    annotations = folder / "float32_as_ground_truth.json"
    write_json(annotations, _annotations(found.reference, images))
    results = []
    for side, detections in (("float32", found.reference), (name, found.other)):
        results.append(folder / f"{side}.json")
        write_json(results[-1], [entry for i, one in enumerate(detections, 1) for entry in one.to_coco(i)])
    options = EvaluationOptions(out=folder)
    return evaluate(annotations, images.paths[0].parent, results=results, options=options).report


def _annotations(reference: Sequence[InstanceDetections], images: ImageSet) -> dict[str, Any]:
    """The float32 graph's detections as a COCO data set: those with scores that are drawn, else all of them."""
    manifest = images.manifest
    pairs = zip(manifest.category_ids, manifest.class_names, strict=True)
    entries = [entry for i, one in enumerate(reference, 1) for entry in one.to_coco(i)]
    entries = [entry for entry in entries if entry["score"] > DRAWN_ABOVE] or entries
    areas = [float(entry["bbox"][2] * entry["bbox"][3]) for entry in entries]
    return {
        "images": [
            {"id": i, "file_name": path.name, "height": one.masks.size[0], "width": one.masks.size[1]}
            for i, (path, one) in enumerate(zip(images.paths, reference, strict=True), 1)
        ],
        "categories": [{"id": number, "name": name} for number, name in pairs],
        "annotations": [
            {key: entry[key] for key in ("image_id", "category_id", "bbox", "segmentation")}
            | {"id": number, "area": area, "iscrowd": 0}
            for number, (entry, area) in enumerate(zip(entries, areas, strict=True), 1)
        ],
    }
