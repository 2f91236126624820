"""What half precision costs in PyTorch: detections of a checkpoint in float16 and bfloat16 against those in float32.

    python -m benchmarks.torch_precision --checkpoint demo/shapes_slim.pth --images 500 --out benchmarks/results/x.json
    python -m benchmarks.torch_precision --goldens --out benchmarks/results/torch_precision_r50.json

With `--goldens`, R-50 of both families (seeded weights) is compared with what the references themselves gave for the
photographs of tests/golden. Else images are those of the shapes set's validation split. It runs on a CPU, where PyTorch
computes float16 slowly. On a GPU the fused kernels take the place of the reference's two operations, and results differ
by their rounding.
"""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.accuracy import accuracy_of, shapes_images
from benchmarks.targets import parser_of, write_results
from condinst_deploy.contract.precision import Precision
from condinst_deploy.evaluation.agreement import Agreement, agreement, merged
from condinst_deploy.imaging.decode import RGBArray, rgb_from
from condinst_deploy.runtime.predictor import Predictor
from condinst_export.quantization.quantized_agreement import MIN_BOX_IOU
from tests.support.exports import save_r50_checkpoint
from tests.support.models import GOLDEN, GOLDEN_READERS, IMAGES, adelaidet_state

PHOTOGRAPHS = ("coffee", "astronaut")


def compared(checkpoint: Path, precision: Precision, images: Sequence[RGBArray]) -> Agreement:
    """Detections of all images, one image a batch."""
    with (
        Predictor(checkpoint, device="cpu") as reference,
        Predictor(checkpoint, device="cpu", precision=precision) as other,
    ):
        return merged(agreement(reference(image)[0], other(image)[0], MIN_BOX_IOU) for image in images)


def against_goldens(folder: Path, family: str, precision: Precision) -> dict[str, Any]:
    """Agreement of R-50 with the reference's detections, of each photograph and of all."""
    checkpoint = folder / "CondInst_MS_R_50_1x.pth"
    if family == "adelaidet":
        torch.save({"model": adelaidet_state("MS_R_50"), "iteration": 89_999}, checkpoint)
    else:
        save_r50_checkpoint(checkpoint)
    with Predictor(checkpoint, device="cpu", precision=precision) as predictor:
        found = {
            name: agreement(
                GOLDEN_READERS[family](np.load(GOLDEN / family / f"{name}_seed0.npz"), 0),
                predictor(rgb_from(IMAGES / f"{name}.png"))[0],
                MIN_BOX_IOU,
            )
            for name in PHOTOGRAPHS
        }
    return {name: accuracy_of(each) for name, each in found.items()} | {"all": accuracy_of(merged(found.values()))}


def main() -> None:
    parser = parser_of(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", type=Path)
    what.add_argument("--goldens", action="store_true", help="R-50 of both families against the references' detections")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--precision", action="append", choices=("float16", "bfloat16"))
    given = parser.parse_args()
    precisions: Sequence[Precision] = given.precision or ("bfloat16", "float16")
    metrics: dict[str, Any] = {"min_box_iou": MIN_BOX_IOU}
    if given.goldens:
        for precision in precisions:
            with tempfile.TemporaryDirectory() as folder:
                metrics[precision] = {
                    family: against_goldens(Path(folder), family, precision) for family in GOLDEN_READERS
                }
    else:
        images = shapes_images(given.images)
        metrics |= {"images": given.images}
        metrics |= {each: accuracy_of(compared(given.checkpoint, each, images)) for each in precisions}
    print(json.dumps(metrics, indent=2))
    write_results(given.out, [], metrics)


if __name__ == "__main__":
    main()
