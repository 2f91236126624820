"""Sizes of R-50's plans in float16, INT8 and FP8, built without a GPU by TensorRT for RTX.

    python -m benchmarks.plans --out benchmarks/results/plans_r50.json [--target 0.8]

The weights are made from a seed; a plan's size and its layers' types do not depend on them. The plans are for the
command's default compute capabilities, FP8's for those that have it. The convolutions' types are read from the plan's
program (`condinst_engines`). No plan is run.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.targets import Target, parser_of, write_results
from condinst_engines import BuildOptions, build_engine
from tests.support.coco_sized import cut_photographs
from tests.support.exports import save_r50

IMAGES = 24
KINDS: dict[str, dict[str, Any]] = {
    "float16": {},
    "int8": {"quantization": "int8", "calibration_images": IMAGES},
    "fp8": {"quantization": "fp8", "calibration_images": IMAGES, "sm": ("89", "120")},
}


def plan_of(source: Path, images: Path, kind: str) -> dict[str, Any]:
    """Build one plan; returns its size, and how many convolutions are in which type."""
    options = BuildOptions(flavour="rtx", precision="float16", calibration=images, **KINDS[kind])
    manifest = build_engine(source, source.with_name(f"{kind}.engine"), options).manifest
    return {
        "plan": kind,
        "capabilities": manifest.targets,
        "megabytes": round(manifest.plan_bytes / 1e6, 1),
        "build_seconds": round(manifest.build_seconds, 1),
        "found": str(manifest.quantization or manifest.found.source),
        "library": manifest.library_version,
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--target", type=float, default=0.8, help="of an INT8 plan's size to the float16 plan's")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "r50.onnx"
        save_r50(source.with_suffix(".pth"), source)
        cut_photographs(Path(folder), IMAGES)
        for kind in KINDS:
            rows.append(plan_of(source, Path(folder) / "images", kind))
            print(json.dumps(rows[-1]), flush=True)
    half = rows[0]["megabytes"]
    targets = [
        Target.at_most(f"{row['plan']} plan / float16 plan", row["megabytes"] / half, arguments.target, "ratio")
        for row in rows[1:]
    ]
    write_results(arguments.out, targets, {"plans": rows}, ("onnx", "onnxruntime-gpu", "numpy"))


if __name__ == "__main__":
    main()
