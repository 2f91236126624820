"""Outputs of a network with masks, put on a GPU that a test has, and the host's detections beside the GPU's."""

import numpy as np
import torch

from condinst_deploy.contract import ImageGeometry, InstanceDetections, NetworkOutputs
from condinst_deploy.kernels.runs_launch import LIMITS, Limits
from condinst_deploy.runtime.cuda.gpu import Gpu, Stream
from condinst_deploy.runtime.cuda.gpu_batches import GpuOutputs
from condinst_deploy.runtime.cuda.mask_runs import detections_from_gpu
from condinst_deploy.runtime.cuda.memory_pools import host_array
from condinst_deploy.runtime.postprocess import ResultFilter, detections_from_outputs
from tests.support.mask_cases import SMALL, blobs
from tests.support.models import SLIM, manifest_of

MANIFEST = manifest_of(SLIM)


def batch(logits: torch.Tensor, originals: list[tuple[int, int]]) -> tuple[NetworkOutputs, list[ImageGeometry]]:
    """Outputs with these logits `(B, K, h, w)`, and images of these sizes."""
    images, slots, height, width = logits.shape
    boxes = np.tile(np.array([4, 8, 60, 40], dtype=np.float32), (images, slots, 1))
    scores = np.tile(np.linspace(0.9, 0.3, slots, dtype=np.float32), (images, 1))
    count = np.full(images, slots, dtype=np.int32)
    geometries = [
        ImageGeometry(original, ImageGeometry.of(original, SMALL).resized, (8 * height, 8 * width))
        for original in originals
    ]
    return NetworkOutputs(count, boxes, scores, (scores * 0).astype(np.int32), logits.numpy()), geometries


ORIGINALS = [(61, 97), (40, 190), (1, 50), (50, 1), (150, 8), (64, 120), (300, 500), (96, 160)]


def random_batch(seed: int, images: int = 4, slots: int = 3) -> tuple[NetworkOutputs, list[ImageGeometry]]:
    planes = [blobs(10 * seed + i, slots, 20, 20, scale=(1.0, 4.0, 30.0)[i % 3]) for i in range(images)]
    dtype = (torch.float32, torch.float16)[seed % 2]
    originals = [ORIGINALS[(seed + i) % len(ORIGINALS)] for i in range(images)]
    return batch(torch.stack(planes).to(dtype), originals)


def on_gpu(gpu: Gpu, stream: Stream, outputs: NetworkOutputs) -> GpuOutputs:
    """Outputs that a stream is still writing."""
    arrays = []
    for values in outputs:
        block = gpu.pinned.taken(values.nbytes)
        host_array(block)[: values.nbytes] = np.ascontiguousarray(values).view(np.uint8).ravel()
        arrays.append(gpu.memory.taken(values.nbytes, stream).array(values.shape, values.dtype.name))
        stream.upload(arrays[-1], block)
        block.used_until(stream.record())
    done = stream.record()
    for array in arrays:
        array.owner.used_until(done)
    return GpuOutputs(gpu, done, *arrays)


def found_on(
    gpu: Gpu, outputs: NetworkOutputs, geometries: list[ImageGeometry], limits: Limits = LIMITS
) -> list[InstanceDetections]:
    with gpu.current(), Stream(gpu) as network:
        given = on_gpu(gpu, network, outputs)
        return detections_from_gpu(given, geometries, MANIFEST, ResultFilter(max_detections=50), limits)


def check(found: list[InstanceDetections], outputs: NetworkOutputs, geometries: list[ImageGeometry]) -> None:
    want = detections_from_outputs(outputs, geometries, MANIFEST, ResultFilter(max_detections=50))
    assert len(found) == len(want)
    for got, expected in zip(found, want, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(got.masks.runs, expected.masks.runs, strict=True))
        assert got.masks.rle() == expected.masks.rle()
        assert np.array_equal(got.boxes, expected.boxes)
        assert np.array_equal(got.scores, expected.scores)
