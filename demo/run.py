"""`make demo`: a checkpoint through ONNX to exact masks, and how far it agrees with PyTorch.

Without arguments the model is the slim one that ships in this folder, trained on generated shapes, and the pictures are
generated ones that it has never seen. With WEIGHTS and IMAGES it is the user's own.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.progress import track

from condinst_deploy import CondInstError, InstanceDetections, Predictor
from condinst_deploy.atomic import atomic_path
from condinst_deploy.contract import DRAWN_ABOVE
from condinst_deploy.data.shapes import ShapesConfig, generate_shapes
from condinst_deploy.drawing import contact_sheet
from condinst_deploy.evaluation.agreement import ONNX_TOLERANCE, Agreement, agreement, merged
from condinst_deploy.evaluation.coco import average_precision, ground_truth
from condinst_deploy.runtime.images import expand_sources, rgb_from
from condinst_export.cli import export

FOLDER = Path(__file__).resolve().parent
OUTPUT = FOLDER / "output"
SHIPPED = FOLDER / "shapes_slim.pth"
UNSEEN_SEED = 20_261_122
"""Neither the training nor the validation pictures come from it."""

UNSEEN = 40
DRAWN = 12


def main() -> int:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--weights", type=Path, help="your checkpoint; default: the slim model that ships")
    parser.add_argument("--images", type=Path, help="folder of pictures; default: generated, never seen in training")
    arguments = parser.parse_args()
    try:
        agrees = demonstrate(arguments.weights or SHIPPED, arguments.images)
    except CondInstError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0 if agrees else 1


def demonstrate(weights: Path, images: Path | None) -> bool:
    """Export, predict, compare with PyTorch, draw; whether the exported file agrees with PyTorch."""
    if images is not None:
        expand_sources(str(images))  # a wrong folder is told before the long part
    print("1. condinst-export: checkpoint -> ONNX, verified against PyTorch")
    model = OUTPUT / f"{weights.stem}.onnx"
    export(weights=weights, out=model)
    annotations = None
    if images is None:
        config = replace(ShapesConfig(), val_seed=UNSEEN_SEED)
        annotations = generate_shapes(OUTPUT / "unseen", "val", UNSEEN, config)
        images = OUTPUT / "unseen" / "val"
        print(f"\n{UNSEEN} pictures generated that the model has never seen: {images}")
    pictures: list[Path] = expand_sources(str(images))
    print(f"\n2. Predictor({model.name!r}) on {len(pictures)} pictures, beside the PyTorch model")
    found, total = compare(model, weights, pictures)
    print(f"   {total}")
    if annotations is not None and weights == SHIPPED:
        results = [entry for i, one in enumerate(found, start=1) for entry in one.to_coco(i)]
        precision = average_precision(ground_truth(annotations), results, "segm")
        print(f"   mask AP {precision.ap:.3f}, AP50 {precision.ap50:.3f} on these {len(pictures)} pictures")
    print("\n3. Look at the result:")
    print(f"   {draw(found, pictures)} (detections that score above {DRAWN_ABOVE})")
    return total.within(ONNX_TOLERANCE)


def compare(model: Path, weights: Path, pictures: Sequence[Path]) -> tuple[list[InstanceDetections], Agreement]:
    """What the exported file finds, and how far it agrees with the PyTorch model."""
    with Predictor(model) as exported, Predictor(weights) as reference:
        pairs = [(exported(p)[0], reference(p)[0]) for p in track(pictures, "   pictures", transient=True)]
    return [found for found, _ in pairs], merged(agreement(wanted, found) for found, wanted in pairs)


def draw(found: Sequence[InstanceDetections], pictures: Sequence[Path]) -> Path:
    """A sheet of the first pictures with the detections that the model is sure of."""
    shown = [one.draw(rgb_from(path)) for one, path in zip(found[:DRAWN], pictures, strict=False)]
    path = OUTPUT / "detections.jpg"
    with atomic_path(path) as temporary:
        contact_sheet(shown).save(temporary, format="JPEG", quality=92)
    return path


if __name__ == "__main__":
    sys.exit(main())
