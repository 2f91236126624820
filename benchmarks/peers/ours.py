"""This toolkit's sides, each a separate process.

python -m benchmarks.peers.ours toolkit MODEL      # .onnx or .pth through `Predictor`
python -m benchmarks.peers.ours eager MODEL.pth    # the reference model, dense masks, pycocotools
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.child import ENCODE, MASKS, NETWORK, READ, Found, Side, Stages, serve
from condinst_deploy import Predictor
from condinst_deploy.model.operations import REFERENCE
from condinst_deploy.runtime import observer
from condinst_deploy.runtime.predictor import stages_of
from condinst_deploy.runtime.predictor_options import PredictorOptions
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.dense_masks import dense_rles

CLOCKS = {
    observer.DECODE: READ,
    observer.RESIZE: READ,
    observer.BATCH: READ,
    observer.NETWORK: NETWORK,
    observer.POSTPROCESS: MASKS,
}
"""Stage of the predictor -> stage of this comparison."""


def toolkit(model: Path, stages: Stages) -> Side:
    """Return a side that runs the `Predictor` as users do: a path in, COCO RLEs out."""
    predictor = Predictor(model, device="cpu", observer=lambda stage, _: stages.clock(CLOCKS[stage]))

    def detect(path: str) -> Found:
        with stages.clock(READ):  # the rest of the call; a single image runs in the caller's thread
            (found,) = predictor(path)
        with stages.clock(ENCODE):
            rles = [dict(rle) for rle in found.masks.rle()]
        return Found(found.boxes, found.scores, found.labels, rles)

    return detect


def eager(model: Path, stages: Stages) -> Side:
    """The references' way in plain PyTorch: grouped convolutions as mask head, dense masks of the whole image."""
    backend = TorchBackend.load(model, "cpu")
    backend.model.operations = REFERENCE
    made = stages_of(backend, PredictorOptions())

    def detect(path: str) -> Found:
        with stages.clock(READ):
            _, geometry, prepared = made.prepare(path, path)
            inputs = made.collate([prepared])
        with stages.clock(NETWORK):
            outputs = backend.forward(inputs).on_host()
        n = int(outputs.num_detections[0])
        with stages.clock(MASKS):  # and their encoding, which follows each mask
            rles = dense_rles(torch.from_numpy(outputs.mask_logits[0, :n]), geometry) if n else []
        boxes = geometry.to_original(outputs.boxes[0, :n])
        return Found(boxes, outputs.scores[0, :n], outputs.labels[0, :n].astype(np.int64), rles)

    return detect


SIDES = {"toolkit": toolkit, "eager": eager}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("model", type=Path)
    arguments = parser.parse_args()
    serve(lambda stages: SIDES[arguments.side](arguments.model, stages))


if __name__ == "__main__":
    main()
