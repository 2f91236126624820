"""One side of `benchmarks.network_cpu`: a separate process that answers the requests of a `ModelProcess`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from condinst_deploy.benchmarking.worker import answer_requests
from condinst_deploy.contract import ImageGeometry, NetworkOutputs
from condinst_deploy.imaging.decode import RGBArray
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.cores import CpuThreads
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.runtime.predictor import stages_of
from condinst_deploy.runtime.predictor_options import PredictorOptions
from condinst_deploy.runtime.preprocessing.types import Inputs
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.dense_masks import dense_rles
from tests.support.models import IMAGES

WIDTH, HEIGHT = 1333, 800

Side = Literal["eager", "eager, channels last", "onnxruntime", "onnxruntime, sleeping", "onnxruntime, int8"]
INT8: Side = "onnxruntime, int8"


class ChannelsLastBackend(TorchBackend):
    """The eager model with the layout and the mode that suit PyTorch on a CPU."""

    def forward(self, inputs: Inputs) -> NetworkOutputs:
        images, sizes = (torch.from_numpy(array) for array in inputs.on_host())
        with torch.inference_mode():
            outputs = self.model(images.contiguous(memory_format=torch.channels_last), sizes)
        return NetworkOutputs(*(tensor.numpy() for tensor in outputs))


def load_backend(side: Side, folder: Path) -> Backend:
    if side.startswith("onnxruntime"):
        name = "r50.int8.onnx" if side == INT8 else "r50.onnx"
        return OnnxRuntimeBackend.load(folder / name, "cpu", CpuThreads(spin=side != "onnxruntime, sleeping"))
    if side == "eager":
        return TorchBackend.load(folder / "r50.pth", "cpu")
    backend = ChannelsLastBackend.load(folder / "r50.pth", "cpu")
    backend.model.to(memory_format=torch.channels_last)
    return backend


def photograph() -> RGBArray:
    """RGB `(800, 1333, 3)`, which is resized no more."""
    image = Image.open(IMAGES / "coffee.png").convert("RGB")
    return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS))


def compact_masks(backend: Backend, outputs: NetworkOutputs, geometry: ImageGeometry) -> list[Any]:
    (found,) = backend.postprocess(outputs, [geometry])
    return list(found.masks.rle())


def dense_masks(backend: Backend, outputs: NetworkOutputs, geometry: ImageGeometry) -> list[Any]:
    """The references' way; `backend` has no part in it."""
    return dense_rles(torch.from_numpy(outputs.mask_logits[0, : outputs.num_detections[0]]), geometry)


class SideWorker:
    """A side and its image. Each request is a method; times are in seconds."""

    def __init__(self) -> None:
        self.backend: Backend
        self.encode: Callable[[Backend, NetworkOutputs, ImageGeometry], list[Any]]

    def load(self, side: Side, folder: str) -> dict[str, Any]:
        """Load the side; return the padded size of its image, `(height, width)`."""
        self.backend, self.image_array = load_backend(side, Path(folder)), photograph()
        self.encode = compact_masks if side.startswith("onnxruntime") else dense_masks
        self.stages = stages_of(self.backend, PredictorOptions())
        self.inputs, self.geometry = self._prepared()
        return {"padded": self.geometry.padded}

    def network(self) -> dict[str, float]:
        """Time the network on inputs that are ready."""
        started = time.perf_counter()
        self.backend.forward(self.inputs).on_host()
        return {"seconds": time.perf_counter() - started}

    def image(self) -> dict[str, float]:
        """Time all steps from decoded pixels to COCO RLEs."""
        started = time.perf_counter()
        inputs, geometry = self._prepared()
        self.encode(self.backend, self.backend.forward(inputs).on_host(), geometry)
        return {"seconds": time.perf_counter() - started}

    def detections(self) -> dict[str, Any]:
        """Return the detections as entries of a COCO results file."""
        (found,) = self.backend.postprocess(self.backend.forward(self.inputs).on_host(), [self.geometry])
        return {"entries": found.to_coco(0)}

    def _prepared(self) -> tuple[Inputs, ImageGeometry]:
        _, geometry, inputs = self.stages.prepare(self.image_array, "photograph")
        return self.stages.collate([inputs]), geometry


if __name__ == "__main__":
    answer_requests(SideWorker)
