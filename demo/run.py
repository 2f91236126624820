"""`make demo`: a checkpoint through ONNX to exact masks, and how far it agrees with PyTorch.

Without arguments the model is the slim one that ships in this folder, trained on generated shapes, and the images are
generated ones that it has never seen. With WEIGHTS and IMAGES it is the user's own.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from condinst_deploy import CondInstError, ImageError, InstanceDetections, Predictor
from condinst_deploy.cli.command import progress_bar
from condinst_deploy.cli.progress import ProgressLines
from condinst_deploy.contract import DRAWN_ABOVE
from condinst_deploy.data.shapes_dataset import ShapesConfig, generate_shapes
from condinst_deploy.evaluation.agreement import ONNX_TOLERANCE, Agreement, agreement, merged
from condinst_deploy.evaluation.coco_metrics import average_precision, load_coco
from condinst_deploy.imaging.drawing import SHEET_SIDE, write_sheet
from condinst_deploy.imaging.image_files import ImageFile, existing_sources
from condinst_deploy.shown_text import counted
from condinst_export.cli import export

FOLDER = Path(__file__).resolve().parent
OUTPUT = FOLDER / "output"
SHIPPED = FOLDER / "shapes_slim.pth"
UNSEEN_SEED = 20_261_122
"""Neither the training nor the validation images come from it."""

UNSEEN = 40
DRAWN = 12


def main(output: Path = OUTPUT, unseen: int = UNSEEN) -> int:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--weights", type=Path, help="your checkpoint; default: the slim model that ships")
    parser.add_argument("--images", type=Path, help="folder of images; default: generated, never seen in training")
    arguments = parser.parse_args()
    try:
        agrees = demonstrate(arguments.weights or SHIPPED, arguments.images, output, unseen)
    except CondInstError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0 if agrees else 1


def demonstrate(weights: Path, images: Path | None, output: Path = OUTPUT, unseen: int = UNSEEN) -> bool:
    """Export, predict, compare with PyTorch, draw; whether the exported file agrees with PyTorch.

    Args:
        weights: the checkpoint.
        images: a folder; None: `unseen` generated images.
        output: folder of everything that is written.
        unseen: number of images to generate.
    """
    if images is not None:
        existing_sources([str(images)])  # report a wrong folder before the long part
    print("1. condinst-export: checkpoint -> ONNX, verified against PyTorch")
    model = output / f"{weights.stem}.onnx"
    export(weights=weights, out=model)
    annotations = None
    if images is None:
        config = replace(ShapesConfig(), val_seed=UNSEEN_SEED)
        annotations = generate_shapes(output / "unseen", "val", unseen, config)
        images = output / "unseen" / "val"
        print(f"\n{unseen} images generated that the model has never seen: {images}")
    paths = existing_sources([str(images)])
    print(f"\n2. Predictor({model.name!r}) on {len(paths)} images, beside the PyTorch model")
    results = list(compare(model, weights, paths))
    if not results:
        raise ImageError(f"none of {counted(len(paths), 'image')} could be read; expected at least one")
    total = merged(one.agreement for one in results)
    print(f"   {total}")
    if annotations is not None and weights == SHIPPED:
        entries = [entry for i, one in enumerate(results, start=1) for entry in one.found.to_coco(i)]
        precision = average_precision(load_coco(annotations), entries, "segm")
        print(f"   mask AP {precision.ap:.3f}, AP50 {precision.ap50:.3f} on these {len(paths)} images")
    print("\n3. Look at the result:")
    print(f"   {draw(results[:DRAWN], output)} (detections that score above {DRAWN_ABOVE})")
    return total.within(ONNX_TOLERANCE)


class Result(NamedTuple):
    """Detections of the exported file in an image, and their agreement with the PyTorch model."""

    image: ImageFile
    found: InstanceDetections
    agreement: Agreement


def compare(model: Path, weights: Path, images: Sequence[ImageFile]) -> Iterator[Result]:
    """Both models on every image that can be read; the others are named."""
    with Predictor(model) as exported, Predictor(weights) as reference, progress_bar() as progress:
        both = zip(images, exported.stream(images), reference.stream(images), strict=True)
        lines, task = ProgressLines(), progress.add_task("images", total=len(images))
        lines.update("images", 0, len(images))
        for done, (image, found, wanted) in enumerate(both, start=1):
            progress.update(task, completed=done)
            lines.update("images", done, len(images))
            if found.detections is None or wanted.detections is None:
                print(f"   skipped: {found.error or wanted.error}")
                continue
            yield Result(image, found.detections, agreement(wanted.detections, found.detections))


def draw(results: Sequence[Result], output: Path) -> Path:
    """A sheet of images with the detections that the model is sure of."""
    shown = [one.found.draw(one.image, longest_side=SHEET_SIDE) for one in results]
    path = output / "detections.jpg"
    write_sheet(shown, path)
    return path


if __name__ == "__main__":
    sys.exit(main())
