"""Streams, threads and growth on a GPU, through `Predictor` as users have it."""

import io
import json
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import cache
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.network_work import gflop_of_r50
from condinst_deploy.benchmarking.memory import free_device_mb, resident_mb
from condinst_deploy.contract import NetworkInputs
from condinst_deploy.imaging.encoded_image import EncodedImage
from condinst_deploy.model.condinst import CondInst, Instances
from condinst_deploy.runtime.backend import Backend, Outputs
from condinst_deploy.runtime.cuda.gpu import Gpu
from condinst_deploy.runtime.cuda.gpu_batches import GpuOutputs
from condinst_deploy.runtime.cuda.memory_pools import GpuArray, host_array
from condinst_deploy.runtime.device_outputs import DeviceOutputs
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.preprocessing.types import Inputs
from condinst_deploy.runtime.tensorrt.backend import TensorRtBackend
from condinst_deploy.runtime.torch_backend import TorchBackend

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "demo" / "shapes_slim.pth"
SIZES = ROOT / "tests" / "runtime" / "tensorrt" / "image_sizes.json"
SLOTS = 100
BATCH = 8
FIRST, IMAGES = 1200, 3000
"""Images of a stream that are not timed, because shapes are captured among the first 1,000, and those that are."""

MOST_FIRST, MOST_SECONDS = 30.0, 20.0
"""Seconds of either, at most."""

GROWTH_FIRST, GROWTH_LAST = 2_000, 12_000


@cache
def jpegs(count: int, seed: int) -> list[EncodedImage]:
    """JPEGs in memory, of sizes like COCO's, from seeded smooth noise."""
    rows = json.loads(SIZES.read_text())["sizes"]
    chosen = random.Random(seed).choices(rows, [row[2] for row in rows], k=count)
    rng = np.random.default_rng(seed)
    return [jpeg(rng, width, height) for width, height, _ in chosen]


def jpeg(rng: np.random.Generator, width: int, height: int) -> EncodedImage:
    """One JPEG whose content takes as long to decode as a photograph."""
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    pixels = (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return EncodedImage(f"{width}x{height}", file.getvalue())


class WithEllipses(TorchBackend):
    """The network runs; the masks are ellipses in all slots, because random weights find nothing of sense."""

    def forward(self, inputs: Inputs) -> Outputs:
        """Run the network, and put the ellipses behind it."""
        outputs = super().forward(inputs)
        assert isinstance(outputs, DeviceOutputs)
        logits = outputs.tensors.mask_logits
        return DeviceOutputs.of(ellipse_tensors(tuple(logits.shape), logits.dtype, logits.device))


class OnGpu:
    """Ellipses in place of outputs that are in memory of the driver, made once for each shape."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], list[GpuArray]] = {}

    def instead_of(self, outputs: Outputs) -> GpuOutputs:
        """The same outputs with other detections; they are ready when the network's are."""
        assert isinstance(outputs, GpuOutputs)
        logits = outputs.mask_logits
        if logits.shape not in self._made:
            dtype = {"float16": torch.float16, "float32": torch.float32}[logits.dtype.name]
            tensors = ellipse_tensors(tuple(logits.shape), dtype, torch.device("cpu"))
            self._made[logits.shape] = arrays_on(outputs.gpu, tensors)
        return GpuOutputs(outputs.gpu, outputs.ready, *self._made[logits.shape])


def arrays_on(gpu: Gpu, tensors: Instances) -> list[GpuArray]:
    """Tensors of the host on a GPU; the caller waits."""
    made = []
    with gpu.side_stream() as stream:
        for tensor in tensors:
            source = gpu.pinned.taken(tensor.nbytes)
            host_array(source)[: tensor.nbytes] = tensor.numpy().view(np.uint8).ravel()
            made.append(gpu.memory.array(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), stream))
            stream.upload(made[-1], source)
            stream.synchronize()
    return made


class EngineWithEllipses(TensorRtBackend):
    """As `WithEllipses`."""

    def forward(self, inputs: Inputs) -> Outputs:
        """Run the engine, and put the ellipses behind it."""
        return ON_GPU.instead_of(super().forward(inputs))


class OnnxRuntimeWithEllipses(OnnxRuntimeBackend):
    """As `WithEllipses`."""

    def forward(self, inputs: Inputs) -> Outputs:
        """Run the session, and put the ellipses behind it."""
        outputs = super().forward(inputs)
        return ON_GPU.instead_of(outputs) if isinstance(outputs, GpuOutputs) else outputs


ON_GPU = OnGpu()


@cache
def ellipse_tensors(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> Instances:
    """Outputs whose slots all hold an ellipse; `shape` is that of the mask logits. Nothing writes to them."""
    batch, _, height, width = shape
    boxes = torch.zeros((batch, SLOTS, 4), device=device)
    boxes[..., 2:] = 8
    scores = torch.linspace(0.9, 0.1, SLOTS, device=device).expand(batch, SLOTS).contiguous()
    count = torch.full((batch,), SLOTS, dtype=torch.int32, device=device)
    logits = ellipse_logits(height, width).to(device, dtype).expand(batch, -1, -1, -1).contiguous()
    return Instances(count, boxes, scores, (scores * 0).int(), logits)


def ellipse_logits(height: int, width: int) -> torch.Tensor:
    """`(1, SLOTS, h, w)`: areas of 5 % of the image in the median."""
    random_ = torch.Generator().manual_seed(0)
    radius = (0.05 * torch.exp(0.8 * torch.randn(SLOTS, generator=random_)).clamp(max=6) / torch.pi).sqrt()
    centres = 0.15 + 0.7 * torch.rand(SLOTS, 2, generator=random_)
    y = ((torch.arange(height) + 0.5) / height - centres[:, :1]) / radius[:, None]
    x = ((torch.arange(width) + 0.5) / width - centres[:, 1:]) / radius[:, None]
    return (6 * (1 - (y**2)[:, :, None] - (x**2)[:, None, :]))[None]


def saved_r50(folder: Path) -> Path:
    """A checkpoint of R-50 with seeded weights."""
    from condinst_deploy.contract import ModelManifest, contiguous_ids
    from condinst_deploy.model.checkpoints import save_model

    torch.manual_seed(0)
    names = tuple(str(i) for i in range(80))
    path = folder / "r50.pth"
    save_model(path, CondInst().eval(), ModelManifest(names, contiguous_ids(names)))
    return path


def images_per_second(predictor: Predictor, images: Iterable[EncodedImage]) -> dict[str, Any]:
    """Throughput behind the first images, masks as RLE; the first ones fill caches and make graphs."""
    source: Iterator[EncodedImage] = islice(cycle(images), FIRST + IMAGES)
    seen = first = masks = 0
    begun = now = time.perf_counter()
    with closing(predictor.stream(source)) as found:
        for prediction in found:
            assert prediction.detections is not None
            masks += len(prediction.detections.masks.rle())
            seen, now = seen + 1, time.perf_counter()
            if not first and (seen == FIRST or now - begun > MOST_FIRST):
                first, begun = seen, now
            elif first and now - begun > MOST_SECONDS:
                break
    if seen == first:
        raise RuntimeError(f"{seen} images took {now - begun:.0f} s, and none was left to be timed")
    return {
        "images_per_s": round((seen - first) / (now - begun), 1),
        "masks_of_an_image": round(masks / seen, 1),
        "images": seen - first,
        "images_before": first,
    }


def torch_stream() -> dict[str, Any]:
    """The torch backend in half precision."""
    with tempfile.TemporaryDirectory() as name, WithEllipses.load(saved_r50(Path(name)), "cuda", "float16") as backend:
        return images_per_second(Predictor(backend), jpegs(200, seed=0)) | {"precision": backend.manifest.precision}


def network_alone(backend: Backend, peak_tflops: float) -> dict[str, float]:
    """A batch of eight that is on the GPU already, again and again: time, and share of the measured peak."""
    inputs = backend.collate(
        [
            NetworkInputs(
                np.random.default_rng(0).integers(0, 256, (BATCH, 3, 800, 1344), dtype=np.uint8),
                np.full((BATCH, 2), (800, 1344), np.int32),
            )
        ]
    )
    seconds = 0.0
    for runs in (20, 100):  # the first ones capture and warm up
        started = time.perf_counter()
        for _ in range(runs):
            backend.forward(inputs)
        backend.synchronize()
        seconds = (time.perf_counter() - started) / runs
    share = BATCH * sum(gflop_of_r50().values()) / 1e3 / seconds / peak_tflops
    return {"network_batch_8_ms": round(1e3 * seconds, 3), "network_share_of_measured_peak": round(share, 4)}


def engine_stream(peak_tflops: float) -> dict[str, Any]:
    """An engine of full TensorRT, built here.

    Raises:
        RuntimeError: TensorRT is not installed.
    """
    if find_spec("tensorrt") is None:
        raise RuntimeError("full TensorRT is not installed: pip install 'condinst-deploy[tensorrt]'")
    from condinst_engines import BuildOptions, build_engine

    with tempfile.TemporaryDirectory() as name:
        onnx, engine = Path(name) / "r50.onnx", Path(name) / "r50.engine"
        onnx.write_bytes(exported_r50())
        build_engine(onnx, engine, BuildOptions(precision="float16"))
        with EngineWithEllipses.load(engine, "cuda") as backend:
            found = images_per_second(Predictor(backend), jpegs(200, seed=0)) | network_alone(backend, peak_tflops)
            slots = [slot.contexts for slot in backend.slots.idle()]
            made, replays = (sum(getattr(each, count) for each in slots) for count in ("made", "replays"))
        return found | {"contexts_and_graphs": made, "replays": replays}


@cache
def exported_r50() -> bytes:
    """The exported file, without the exporter's comparison on a CPU, which would take a minute of the GPU's time."""
    from condinst_deploy.model.checkpoints import load_model
    from condinst_export.export_options import ExportOptions
    from condinst_export.onnx_file import onnx_from_model, with_options

    with tempfile.TemporaryDirectory() as name:
        loaded = load_model(saved_r50(Path(name)))
    manifest = with_options(loaded.model, loaded.manifest, ExportOptions())
    content: bytes = onnx_from_model(loaded.model, manifest).SerializeToString()
    return content


def onnxruntime_stream() -> dict[str, Any]:
    """The exported file in float16 through ONNX Runtime's CUDA provider, inputs and outputs on the GPU."""
    import onnx

    from condinst_engines.mixed_precision import converted

    content = converted(onnx.load_from_string(exported_r50()), "float16").SerializeToString()
    with OnnxRuntimeWithEllipses.from_bytes(content, "R-50 in float16", "cuda") as backend:
        return images_per_second(Predictor(backend), jpegs(200, seed=0)) | {"note": backend.note}


def eight_threads() -> dict[str, Any]:
    """Eight threads on one model beside one after the other."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (240, 320 + 32 * (i % 3), 3), dtype=np.uint8) for i in range(24)]
    with Predictor(DEMO, device="cuda", batch_size=1) as predictor:
        serial = [predictor([image])[0] for image in images]
        with ThreadPoolExecutor(8) as threads:
            together = list(threads.map(lambda image: predictor([image])[0], images * 8))
    want = [(found.masks.rle(), found.labels.tolist()) for found in serial] * 8
    other = sum((found.masks.rle(), found.labels.tolist()) != each for found, each in zip(together, want, strict=True))
    return {"images": len(together), "other": other, "detections": sum(len(found) for found in serial)}


def growth() -> dict[str, Any]:
    """Growth of memory over 10,000 images of mixed sizes, behind the first 2,000."""
    images = jpegs(200, seed=1)
    seen: dict[int, tuple[float, float]] = {}
    with (
        Predictor(DEMO, device="cuda") as predictor,
        closing(predictor.stream(islice(cycle(images), GROWTH_LAST))) as found,
    ):
        for i, _ in enumerate(found, start=1):
            if i in (GROWTH_FIRST, GROWTH_LAST):
                seen[i] = free_device_mb("cuda") or 0.0, resident_mb() or 0.0
    (free, host), (free_last, host_last) = seen[GROWTH_FIRST], seen[GROWTH_LAST]
    return {
        "gpu_grown_mb": round(free - free_last, 1),
        "host_mb": round(host_last, 1),
        "host_grown_mb": round(host_last - host, 1),
    }
