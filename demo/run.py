"""`make demo`: a checkpoint through ONNX to exact masks on real pictures, and how far it agrees with PyTorch.

With WEIGHTS the user's own model runs; without, a model of seeded weights. Seeded weights have learned
nothing: what the demonstration shows is that the exported file computes what the PyTorch model computes,
not that the model knows what is in a picture.
"""

import argparse
import ast
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from condinst_deploy import CondInstError, Predictor
from condinst_deploy.atomic import atomic_path
from condinst_deploy.evaluation.agreement import agreement, merged
from condinst_deploy.runtime.images import expand_sources, rgb_from
from condinst_export.cli import export
from tests.golden.seeded_weights import seeded_state_dict

ROOT = Path(__file__).resolve().parent.parent
OUTPUT = ROOT / "demo" / "output"
PICTURES = ROOT / "tests" / "golden" / "images"
KEYS = ROOT / "tests" / "golden" / "mmdet" / "state_dict_keys.txt"
SEED = 0
DRAWN = 10  # best detections of a picture that are drawn


def main() -> int:
    """Run the demonstration."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--weights", type=Path, help="your checkpoint; default: an R-50 of seeded weights")
    parser.add_argument("--images", type=Path, default=PICTURES, help="folder of pictures; default: two photographs")
    arguments = parser.parse_args()
    try:
        demonstrate(arguments.weights, arguments.images)
    except CondInstError as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


def demonstrate(weights: Path | None, images: Path) -> None:
    """Export, predict, compare with PyTorch, draw."""
    if weights is None:
        weights = seeded_checkpoint(OUTPUT / "seeded_r50.pth")
        print("No WEIGHTS given: the model is a ResNet-50 CondInst of seeded weights. It has learned nothing,")
        print("so its labels mean nothing; what counts is that every step gives what PyTorch gives.\n")
    print("1. condinst-export: checkpoint -> ONNX, verified against PyTorch")
    model = OUTPUT / f"{weights.stem}.onnx"
    export(weights=weights, out=model)
    pictures = expand_sources(str(images))
    print(f"\n2. Predictor({model.name!r}) on {len(pictures)} pictures, beside the PyTorch model")
    shown = predict(model, weights, pictures)
    print(f"\n3. Look at the result (the best {DRAWN} detections of each picture):")
    for path in shown:
        print(f"   {path}")


def predict(model: Path, weights: Path, pictures: Sequence[Path]) -> list[Path]:
    """Overlay pictures of the exported model's detections; prints the agreement with PyTorch."""
    parts, shown = [], []
    with Predictor(model) as exported, Predictor(weights) as reference:
        for picture in pictures:
            (found,), (wanted,) = exported(picture), reference(picture)
            parts.append(agreement(wanted, found))
            print(f"   {picture.name}: {len(found)} detections; {parts[-1]}")
            shown.append(OUTPUT / f"{picture.stem}.jpg")
            with atomic_path(shown[-1]) as temporary:
                found[:DRAWN].draw(rgb_from(picture)).save(temporary, format="JPEG", quality=92)
    print(f"   all: {merged(parts)}")
    return shown


def seeded_checkpoint(path: Path) -> Path:
    """An mmdetection checkpoint of weights made from names, shapes and a seed."""
    rows = (line.split("\t") for line in KEYS.read_text(encoding="utf-8").splitlines())
    shapes = {key: ast.literal_eval(shape) for key, shape, _ in rows}
    arrays = seeded_state_dict(shapes, SEED)
    with atomic_path(path) as temporary:
        state = {key: torch.from_numpy(array) for key, array in arrays.items()}
        torch.save({"meta": {}, "state_dict": state}, temporary)
    return path


if __name__ == "__main__":
    sys.exit(main())
