"""This toolkit's sides, each a process of its own.

python -m benchmarks.peers.ours toolkit MODEL      # .onnx or .pth through `Predictor`
python -m benchmarks.peers.ours eager MODEL.pth    # the reference model, dense masks, pycocotools
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from benchmarks.dense import dense_rles
from benchmarks.peers.child import ENCODE, MASKS, NETWORK, READ, Found, Side, Stages, serve
from condinst_deploy import Predictor
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.model.operations import REFERENCE
from condinst_deploy.runtime.torch_backend import TorchBackend


def toolkit(model: Path, stages: Stages) -> Side:
    """What a user calls: a path into the `Predictor`, COCO RLEs out."""
    predictor = Predictor(model, device="cpu")
    for verb, stage in (("infer", NETWORK), ("postprocess", MASKS)):
        stages.watch(predictor.backend, verb, stage)

    def detect(path: str) -> Found:
        with stages.clock(READ):  # what is left of the call: one image is run in one thread
            (found,) = predictor(path)
        with stages.clock(ENCODE):
            rles = [dict(rle) for rle in found.masks.rle()]
        return Found(found.boxes, found.scores, found.labels, rles)

    return detect


def eager(model: Path, stages: Stages) -> Side:
    """The references' way in plain PyTorch: grouped convolutions as mask head, dense masks of the whole image."""
    backend = TorchBackend.load(model, "cpu")
    backend.model.operations = REFERENCE

    def detect(path: str) -> Found:
        with stages.clock(READ):
            inputs, (geometry,) = backend.preprocess([rgb_from(path)])
        with stages.clock(NETWORK):
            outputs = backend.forward(inputs)
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
