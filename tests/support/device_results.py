"""Detections made where the logits are, taken apart into tensors that travel between processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest
from condinst_deploy.errors import BackendError
from condinst_deploy.kernels.runs_launch import LIMITS, Limits
from condinst_deploy.masks import Masks
from condinst_deploy.model.condinst import Instances
from condinst_deploy.runtime.device_outputs import DeviceOutputs
from condinst_deploy.runtime.device_postprocess import detections_from_device
from condinst_deploy.runtime.postprocess import ResultFilter
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.batches import host_batch
from tests.support.models import SLIM, SLIM_ADELAIDET, manifest_of

Sizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""An `ImageGeometry`'s fields."""

Parts = dict[str, Any]
"""Tensors of one image's detections; the crops are a list."""


def results_on_device(
    tensors: tuple[Tensor, ...],
    sizes: list[Sizes],
    family: str = "mmdet",
    limit: int | None = None,
    num_classes: int = SLIM.num_classes,
    limits: Limits = LIMITS,
) -> list[Parts] | str:
    """`detections_from_device`, or the message of the error that it raised.

    Args:
        tensors: the network's outputs, in the contract's order, on the device.
        sizes: of each image.
        family: the model's.
        limit: detections of an image.
        num_classes: the model's.
        limits: of the kernels.
    """
    outputs, manifest = DeviceOutputs.of(Instances(*tensors)), _manifest(family, num_classes)
    geometries = [ImageGeometry(*each) for each in sizes]
    try:
        found = detections_from_device(outputs, geometries, manifest, ResultFilter(max_detections=limit), limits)
    except BackendError as e:
        return str(e)
    return [_parts(each) for each in found]


def predicted(checkpoint: str, images: list[Tensor], limit: int, device: str = "cpu") -> list[Parts]:
    """Return `TorchBackend`'s detections in `(H, W, 3)` uint8 images of one padded size; outputs stay on the device."""
    with TorchBackend.load(Path(checkpoint), device) as backend:
        inputs, geometries = host_batch(backend, [image.numpy() for image in images])
        outputs = backend.forward(inputs)
        assert isinstance(outputs, DeviceOutputs)
        backend.synchronize()
        return [_parts(each) for each in backend.postprocess(outputs, geometries, ResultFilter(max_detections=limit))]


def detections_of(
    parts: Parts, size: tuple[int, int], family: str = "mmdet", num_classes: int = SLIM.num_classes
) -> InstanceDetections:
    """Return the detections that the parts were taken from."""
    manifest = _manifest(family, num_classes)
    crops = tuple(crop.numpy() for crop in parts["crops"])
    boxes, scores, labels, offsets = (parts[name].numpy() for name in ("boxes", "scores", "labels", "offsets"))
    return InstanceDetections(
        boxes, scores, labels, Masks.from_crops(size, offsets, crops), manifest.class_names, manifest.category_ids
    )


def _manifest(family: str, num_classes: int) -> ModelManifest:
    return manifest_of(replace(SLIM_ADELAIDET if family != "mmdet" else SLIM, num_classes=num_classes))


def _parts(found: InstanceDetections) -> Parts:
    arrays = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels, "offsets": found.masks.offsets}
    crops = [torch.from_numpy(np.ascontiguousarray(crop)) for crop in found.masks.crops]
    return {name: torch.from_numpy(array) for name, array in arrays.items()} | {"crops": crops}
