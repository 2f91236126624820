"""`postprocess` for outputs on a PyTorch device: runs of masks are found there, and only they cross to the host.

What crosses is the slots' boxes, scores, labels and extents, then the runs of the masks that are kept; logits and
pixels stay. Which detections are kept, and what their boxes are, is `runtime/postprocess.py`'s for both.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest
from condinst_deploy.kernels.extents import mask_extents
from condinst_deploy.kernels.runs import mask_runs
from condinst_deploy.kernels.runs_launch import LIMITS, IntArray, Limits, MaskCrops, launches, runs_of_masks
from condinst_deploy.masks import Masks
from condinst_deploy.runtime.device_outputs import DeviceOutputs, on_host, side_stream
from condinst_deploy.runtime.mask_crops import kernels_cover, mask_crops
from condinst_deploy.runtime.postprocess import (
    ResultFilter,
    SlotOutputs,
    detections_from_outputs,
    detections_with_masks,
    masks_from_runs,
    require_finite,
)


def detections_from_device(
    outputs: DeviceOutputs,
    geometries: Sequence[ImageGeometry],
    manifest: ModelManifest,
    result_filter: ResultFilter,
    limits: Limits = LIMITS,
) -> list[InstanceDetections]:
    """`detections_from_outputs` for outputs on a device.

    Raises:
        BackendError: the network's outputs are not finite.
    """
    logits = outputs.tensors.mask_logits
    with side_stream(logits.device):
        if not kernels_cover(geometries, tuple(logits.shape), limits):
            host = outputs.on_host(len(geometries), manifest.precision)
            return detections_from_outputs(host, geometries, manifest, result_filter)
        tensors = outputs.taken()
        *small, extents = on_host(*tensors[:-1], mask_extents(tensors.mask_logits))
        require_finite(not extents[: len(geometries), :, -1].any(), manifest.precision)

        def masks_of(kept: list[IntArray]) -> list[Masks]:
            found = mask_crops(extents, kept, geometries, tuple(logits.shape))
            return masks_from_runs(_runs(tensors.mask_logits, found, limits), kept, geometries)

        return detections_with_masks(SlotOutputs(*small), geometries, manifest, result_filter, masks_of)


def _runs(logits: Tensor, found: MaskCrops, limits: Limits) -> Iterator[IntArray]:
    """The runs of each crop's mask."""
    for launch in launches(found, limits):
        runs, totals = mask_runs(logits, launch, found.columns)
        (crossed,) = on_host(runs)
        yield from runs_of_masks(crossed, totals)
