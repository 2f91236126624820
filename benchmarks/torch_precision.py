"""What half precision costs in PyTorch: detections of a checkpoint in float16 and bfloat16 against those in float32.

    python -m benchmarks.torch_precision --checkpoint demo/shapes_slim.pth --images 500 --out benchmarks/results/x.json

Images are those of the shapes set's validation split. It runs on a CPU, where PyTorch computes float16 slowly. On a GPU
the fused kernels take the place of the reference's two operations, and results differ by their rounding.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy import accuracy_of, shapes_images
from benchmarks.targets import parser_of, write_results
from condinst_deploy.contract.precision import Precision
from condinst_deploy.evaluation.agreement import Agreement, agreement, merged
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.runtime.predictor import Predictor
from condinst_export.quantization.quantized_agreement import MIN_BOX_IOU


def compared(checkpoint: Path, precision: Precision, images: Sequence[RGBArray]) -> Agreement:
    """Detections of all images, one image a batch."""
    with (
        Predictor(checkpoint, device="cpu") as reference,
        Predictor(checkpoint, device="cpu", precision=precision) as other,
    ):
        return merged(agreement(reference(image)[0], other(image)[0], MIN_BOX_IOU) for image in images)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--precision", action="append", choices=("float16", "bfloat16"))
    given = parser.parse_args()
    images = shapes_images(given.images)
    results = {
        precision: accuracy_of(compared(given.checkpoint, precision, images))
        for precision in given.precision or ("bfloat16", "float16")
    }
    print(json.dumps(results, indent=2))
    write_results(given.out, [], {"images": given.images, "min_box_iou": MIN_BOX_IOU} | results)


if __name__ == "__main__":
    main()
