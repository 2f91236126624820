"""Verification of a quantised graph: its detections beside those of the float32 graph, on images held out for it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from condinst_deploy.contract import InstanceDetections, NetworkInputs
from condinst_deploy.contract.geometry import ImageGeometry
from condinst_deploy.contract.quantization import HeldOutAgreement
from condinst_deploy.errors import VerificationError
from condinst_deploy.evaluation.agreement import Agreement, agreement, merged
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_export.quantization.images import ImageSet

MIN_BOX_IOU = 0.9
"""Of a pair of detections with equal labels: 8 bits move boxes by less."""


@dataclass(frozen=True)
class QuantizedTolerance:
    """What a quantised graph may lose against the float32 graph, on the held-out images together."""

    matched_share: float  # at least
    median_mask_iou: float  # at least

    def __str__(self) -> str:
        return f"at least {self.matched_share:.0%} matched, median mask IoU at least {self.median_mask_iou:g}"

    def holds(self, found: HeldOutAgreement) -> bool:
        """Whether a result is within it."""
        return found.matched_share >= self.matched_share and (found.median_mask_iou or 0.0) >= self.median_mask_iou


INT8_TOLERANCE = QuantizedTolerance(matched_share=0.6, median_mask_iou=0.9)
"""Below it something is broken (a wrong scale, an overflow), whatever the model. Good files lose much less."""


def held_out_agreement(
    reference: onnx.ModelProto,
    quantized: onnx.ModelProto,
    images: ImageSet,
    on_image: Callable[[int], None] = lambda done: None,
) -> tuple[HeldOutAgreement, Agreement]:
    """Run both graphs on images, one by one.

    Args:
        reference: the float32 file.
        quantized: the other file, with the same manifest's inputs and outputs.
        images: that were not calibrated on.
        on_image: called with the number of images that are done.

    Raises:
        VerificationError: the quantised graph gives NaN, or the float32 graph finds nothing in any image.
    """
    parts = []
    with _backend(reference, "the float32 graph") as first, _backend(quantized, "the quantised graph") as second:
        for done, path in enumerate(images.paths, 1):
            inputs, geometry = images.batch(path)
            parts.append(agreement(_found(first, inputs, geometry), _found(second, inputs, geometry), MIN_BOX_IOU))
            on_image(done)
    total = merged(parts)
    if not total.reference_count:
        raise VerificationError(
            f"the float32 model finds nothing in the {len(images)} held-out images, so a quantised one cannot be"
            " judged; give images of the kind that the model was trained for. No file was written"
        )
    median = float(np.median(total.mask_ious)) if total.matched else None
    share = total.matched / total.reference_count
    counts = len(images), total.reference_count, total.other_count
    return HeldOutAgreement(*counts, share, MIN_BOX_IOU, median), total


def _backend(proto: onnx.ModelProto, name: str) -> Backend:
    return OnnxRuntimeBackend.from_bytes(proto.SerializeToString(), name, "cpu")


def _found(backend: Backend, inputs: NetworkInputs, geometry: ImageGeometry) -> InstanceDetections:
    outputs = backend.forward(inputs).on_host()
    if not all(np.isfinite(output[:1]).all() for output in outputs):
        raise VerificationError("a graph gives NaN or infinity on a held-out image. No file was written")
    return backend.postprocess(outputs, [geometry])[0]
