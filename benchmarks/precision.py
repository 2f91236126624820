"""What half precision costs in accuracy: detections of converted graphs against those of the float32 graph.

    python benchmarks/precision.py --onnx model.onnx --images tests/golden/images --out benchmarks/results/x.json
    python benchmarks/precision.py --onnx shapes.onnx --annotations val.json --images val

With `--annotations` (COCO format) mask AP is measured, too. `--other FILE.onnx` adds a graph that another tool
converted. float16 runs in ONNX Runtime as it is, and float16 and bfloat16 with every half tensor rounded
(`condinst_engines.rounding`).
"""

import argparse
import json
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.evaluation.agreement import agreement, merged
from condinst_deploy.evaluation.coco import average_precision, detect_all, load_coco
from condinst_deploy.imaging.decode import expand_sources
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.support.versions import installed_versions
from condinst_engines.precision import converted
from condinst_engines.rounding import rounded

MIN_BOX_IOU = 0.9


def graphs(source: Path, others: list[Path]) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Name and graph of everything that is measured; the reference comes first."""
    proto = onnx.load(str(source))
    yield "float32", proto
    for precision in ("float16", "bfloat16"):
        graph = onnx.inliner.inline_local_functions(converted(proto, precision))
        if precision == "float16":
            yield "float16 in ONNX Runtime", graph
        yield f"{precision} rounded", rounded(graph)
    for path in others:
        other = onnx.load(str(path))
        del other.metadata_props[:]
        other.metadata_props.extend(proto.metadata_props)
        yield path.stem, other
        yield f"{path.stem} rounded", rounded(onnx.inliner.inline_local_functions(other))


def detections_of(predictor: Predictor, images: list[Any]) -> list[InstanceDetections]:
    found = [result.detections for result in predictor.stream(images)]
    return [detections for detections in found if detections is not None]


def mask_ap(predictor: Predictor, annotations: Path, images: Path) -> float:
    ground_truth = load_coco(annotations)
    files = [(i, images / ground_truth.imgs[i]["file_name"]) for i in sorted(ground_truth.imgs)]
    return 100 * average_precision(ground_truth, detect_all(predictor, files), "segm").ap


def agreement_with(reference: list[InstanceDetections], found: list[InstanceDetections]) -> dict[str, Any]:
    total = merged(agreement(a, b, MIN_BOX_IOU) for a, b in zip(reference, found, strict=True))
    return total.summary() | {
        "matched_share": total.matched / max(total.reference_count, 1),
        "median_mask_iou": float(np.median(total.mask_ious)) if total.matched else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--other", type=Path, action="append", default=[])
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    images = expand_sources(str(arguments.images))
    reference: list[InstanceDetections] = []
    rows = []
    for name, graph in graphs(arguments.onnx, arguments.other):
        with Predictor(OnnxRuntimeBackend.from_bytes(graph.SerializeToString(), name, "cpu")) as predictor:
            found = detections_of(predictor, images)
            reference = reference or found
            row: dict[str, Any] = {"graph": name} | agreement_with(reference, found)
            if arguments.annotations:
                row["mask_ap"] = mask_ap(predictor, arguments.annotations, arguments.images)
        rows.append(row)
        print(json.dumps(row), flush=True)
    if arguments.out:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        libraries = installed_versions(("onnx", "onnxruntime-gpu", "numpy"))
        result = {
            "model": arguments.onnx.name,
            "pictures": len(images),
            "min_box_iou": MIN_BOX_IOU,
            "machine": platform.machine(),
            "commit": commit,
            "libraries": libraries,
            "rows": rows,
        }
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
