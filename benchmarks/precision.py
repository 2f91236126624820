"""Accuracy of half precision: detections of converted graphs against those of the float32 graph.

    python -m benchmarks.precision --onnx model.onnx --images tests/golden/images --out benchmarks/results/x.json
    python -m benchmarks.precision --onnx shapes.onnx --annotations val.json --images val [--calibration train]

With `--annotations` (COCO format) mask and box AP are measured, too. `--calibration DIR` adds the INT8 file for CPUs
and the graphs of INT8 and FP8 engines, with every half tensor rounded. `--other FILE.onnx` adds another tool's graph.
float16 runs in ONNX Runtime as it is, and float16 and bfloat16 with every half tensor rounded
(`condinst_engines.rounding`). Both are the graphs that a builder gets: the range check has handled them.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner

from benchmarks.accuracy import accuracy_of
from benchmarks.targets import parser_of, write_results
from condinst_deploy.contract import InstanceDetections
from condinst_deploy.contract.engine_ranges import CheckedRanges
from condinst_deploy.contract.precision import Precision
from condinst_deploy.evaluation.agreement import agreement, merged
from condinst_deploy.evaluation.coco_metrics import Kind, average_precision, load_coco
from condinst_deploy.imaging.image_files import expand_sources
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.support.validation import typed
from condinst_engines.build_recipe import BuildRecipe
from condinst_engines.mixed_precision import converted
from condinst_engines.onnx_input import manifest_of
from condinst_engines.plan_builder import graph_for_builder
from condinst_engines.precision_policy import QUANTIZED, Policy
from condinst_engines.quantization.calibrate import Request, calibrated
from condinst_engines.quantization.cost_report import simulation_backend
from condinst_engines.ranges.check import RangeCheck
from condinst_engines.ranges.decide import Setting
from condinst_engines.ranges.range_images import RangeImages
from condinst_engines.rounding import rounded
from condinst_export.quantization.calibration_options import CalibrationOptions
from condinst_export.quantization.int8_file import int8_from_float32
from condinst_export.quantization.quantized_agreement import MIN_BOX_IOU

HALVES: tuple[Precision, ...] = ("float16", "bfloat16")


def graphs(
    source: Path, others: list[Path], calibration: Path | None, ranges: dict[str, CheckedRanges]
) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Name and graph of everything that is measured; the reference comes first. `ranges` grows."""
    proto = onnx.load(str(source))
    yield "float32", proto
    images = RangeImages(manifest_of(proto, source))
    for precision in HALVES:
        policy, ranges[precision] = RangeCheck(proto, images, Setting(precision, Policy(), "bf16")).run()
        graph = onnx.inliner.inline_local_functions(converted(proto, precision, policy))
        if precision == "float16":
            runnable = policy.with_level("fp32", policy.bf16)  # it has no bfloat16 convolutions
            yield "float16 in ONNX Runtime", onnx.inliner.inline_local_functions(converted(proto, precision, runnable))
        yield f"{precision} rounded", rounded(graph)
    for path in others:
        other = onnx.load(str(path))
        del other.metadata_props[:]
        other.metadata_props.extend(proto.metadata_props)
        yield path.stem, other
        yield f"{path.stem} rounded", rounded(onnx.inliner.inline_local_functions(other))
    if calibration is not None:
        yield from quantized_graphs(source, calibration, ranges["float16"])


def quantized_graphs(source: Path, calibration: Path, ranges: CheckedRanges) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The INT8 file for CPUs, and what builders get for INT8 and FP8, by the policy of the float16 graph."""
    proto = onnx.load(str(source))
    manifest, options = manifest_of(proto, source), CalibrationOptions(calibration)
    yield "INT8 file for CPUs", int8_from_float32(proto, manifest, options)[0]
    policy = typed(dict(ranges.policy), Policy)
    for kind in QUANTIZED:
        recipe = BuildRecipe(precision="float16", quantization=kind, policy=policy)
        scales, _ = calibrated(proto, manifest, Request(kind, options), recipe)
        yield f"{kind.upper()} engine rounded", rounded(graph_for_builder(proto, recipe, scales))


def detections_of(predictor: Predictor, images: list[Any]) -> list[InstanceDetections]:
    found = [result.detections for result in predictor.stream(images)]
    return [detections for detections in found if detections is not None]


def average_precisions(found: list[InstanceDetections], annotations: Path) -> dict[str, float]:
    ground_truth = load_coco(annotations)
    entries = [
        entry for i, detections in zip(sorted(ground_truth.imgs), found, strict=True) for entry in detections.to_coco(i)
    ]
    kinds: dict[str, Kind] = {"mask_ap": "segm", "box_ap": "bbox"}
    return {name: 100 * average_precision(ground_truth, entries, kind).ap for name, kind in kinds.items()}


def sources_of(images: Path, annotations: Path | None) -> list[Any]:
    """All images of a folder; with annotations theirs, by rising id."""
    if annotations is None:
        return expand_sources(str(images))
    ground_truth = load_coco(annotations)
    return [images / ground_truth.imgs[i]["file_name"] for i in sorted(ground_truth.imgs)]


def agreement_with(reference: list[InstanceDetections], found: list[InstanceDetections]) -> dict[str, Any]:
    return accuracy_of(merged(agreement(a, b, MIN_BOX_IOU) for a, b in zip(reference, found, strict=True)))


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--other", type=Path, action="append", default=[])
    parser.add_argument("--calibration", type=Path)
    arguments = parser.parse_args()
    images = sources_of(arguments.images, arguments.annotations)
    reference: list[InstanceDetections] = []
    rows = []
    ranges: dict[str, CheckedRanges] = {}
    manifest = manifest_of(onnx.load(str(arguments.onnx)), arguments.onnx)
    for name, graph in graphs(arguments.onnx, arguments.other, arguments.calibration, ranges):
        with Predictor(simulation_backend(graph, manifest)) as predictor:
            found = detections_of(predictor, images)
            reference = reference or found
            row: dict[str, Any] = {"graph": name} | agreement_with(reference, found)
            if arguments.annotations:
                row |= average_precisions(found, arguments.annotations)
        rows.append(row)
        print(json.dumps(row), flush=True)
    about = {"model": arguments.onnx.name, "images": len(images), "min_box_iou": MIN_BOX_IOU, "rows": rows}
    checked = {precision: asdict(each) for precision, each in ranges.items()}
    write_results(arguments.out, [], about | {"ranges": checked}, ("onnx", "onnxruntime-gpu", "numpy"))


if __name__ == "__main__":
    main()
