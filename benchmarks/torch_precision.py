"""What half precision costs in PyTorch: detections of a checkpoint in float16 and bfloat16 against those in float32.

    python -m benchmarks.torch_precision --checkpoint demo/shapes_slim.pth --images 500 --out benchmarks/results/x.json

Images are those of the shapes set's validation split. It runs on a CPU, where PyTorch computes float16 slowly. On a GPU
the fused kernels take the place of the reference's two operations, and results differ by their rounding.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.machine import machine
from condinst_deploy.contract.precision import Precision
from condinst_deploy.data.shapes import ShapesConfig, image_of, scene_of
from condinst_deploy.evaluation.agreement import Agreement, agreement, merged
from condinst_deploy.runtime.predictor import Predictor

MIN_BOX_IOU = 0.9


def compared(checkpoint: Path, precision: Precision, images: Sequence[np.ndarray[Any, Any]]) -> Agreement:
    """Detections of all images, one image a batch."""
    with (
        Predictor(checkpoint, device="cpu") as reference,
        Predictor(checkpoint, device="cpu", precision=precision) as other,
    ):
        return merged(agreement(reference(image)[0], other(image)[0], MIN_BOX_IOU) for image in images)


def figures(found: Agreement) -> dict[str, Any]:
    """What is written of a comparison."""
    return {
        "reference_detections": found.reference_count,
        "other_detections": found.other_count,
        "matched_share": round(found.matched_share, 4),
        "median_mask_iou": round(float(np.median(found.mask_ious)), 4),
        "median_box_error_px": round(float(np.median(found.box_errors)), 3),
        "median_score_error": round(float(np.median(found.score_errors)), 5),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--precision", action="append", choices=("float16", "bfloat16"))
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    config = ShapesConfig()
    images = [image_of(scene_of(config, "val", i), config, "val", i) for i in range(given.images)]
    results = {
        precision: figures(compared(given.checkpoint, precision, images))
        for precision in given.precision or ("bfloat16", "float16")
    }
    text = json.dumps(
        {"machine": machine(), "torch": torch.__version__, "images": given.images, "min_box_iou": MIN_BOX_IOU}
        | results,
        indent=2,
    )
    print(text)
    if given.out is not None:
        given.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
