"""Verification of a quantised graph: its detections beside those of the float32 graph, on images held out for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.contract.quantization import HeldOutAgreement
from condinst_deploy.errors import VerificationError
from condinst_deploy.evaluation.agreement import agreement, merged
from condinst_deploy.runtime.backend import Backend
from condinst_deploy.runtime.onnxruntime_backend import OnnxRuntimeBackend
from condinst_export.quantization.calibration_images import ImageSet

MIN_BOX_IOU = 0.9
"""Least box IoU of a pair of detections with equal labels: rounding to half or 8 bits moves boxes by less."""


@dataclass(frozen=True)
class QuantizedTolerance:
    """Largest loss of a quantised graph against the float32 graph, on all held-out images together."""

    matched_share: float  # at least
    median_mask_iou: float  # at least

    def __str__(self) -> str:
        return f"at least {self.matched_share:.0%} matched, median mask IoU at least {self.median_mask_iou:g}"

    def holds(self, found: HeldOutAgreement) -> bool:
        """Return whether a result is within the limits."""
        return found.matched_share >= self.matched_share and (found.median_mask_iou or 0.0) >= self.median_mask_iou


INT8_TOLERANCE = QuantizedTolerance(matched_share=0.6, median_mask_iou=0.9)
"""Below this share something is broken (a wrong scale, an overflow), for every model. Good files lose much less."""


def agreement_between(reference: Sequence[InstanceDetections], other: Sequence[InstanceDetections]) -> HeldOutAgreement:
    """Compare detections of the same images; without any in the reference the matched share is 1."""
    total = merged(agreement(a, b, MIN_BOX_IOU) for a, b in zip(reference, other, strict=True))
    return HeldOutAgreement(
        images=len(reference),
        reference=total.reference_count,
        other=total.other_count,
        matched_share=total.matched / total.reference_count if total.reference_count else 1.0,
        min_box_iou=MIN_BOX_IOU,
        median_mask_iou=float(np.median(total.mask_ious)) if total.matched else None,
    )


def detections_of(
    backend: Backend, images: ImageSet, on_image: Callable[[int], None] = lambda done: None
) -> list[InstanceDetections]:
    """Detections of every image, run one by one.

    Args:
        backend: the network.
        images: prepared as for inference.
        on_image: called with the number of images that are done.

    Raises:
        ImageError: an image cannot be read.
        VerificationError: an output is NaN or infinite.
    """
    found = []
    for done, path in enumerate(images.paths, 1):
        inputs, geometry = images.batch(path)
        outputs = backend.forward(inputs).on_host()
        if not all(np.isfinite(output[:1]).all() for output in outputs):
            raise VerificationError(f"the graph gives NaN or infinity for {path}. No file was written")
        found.append(backend.postprocess(outputs, [geometry])[0])
        on_image(done)
    return found


def held_out_agreement(
    reference: onnx.ModelProto,
    quantized: onnx.ModelProto,
    images: ImageSet,
    on_image: Callable[[int], None] = lambda done: None,
) -> HeldOutAgreement:
    """Run two graphs on images in ONNX Runtime, and compare their detections.

    Args:
        reference: the float32 file.
        quantized: the other file, with the same manifest's inputs and outputs.
        images: that were not calibrated on.
        on_image: called with the number of images that are done, of both graphs together.

    Raises:
        ImageError: an image cannot be read.
        VerificationError: a graph gives NaN, or the float32 graph finds nothing in any image.
    """
    found = []
    count = len(images)
    for proto, name, of_one in (
        (reference, "the float32 graph", on_image),
        (quantized, "the quantised graph", lambda done: on_image(count + done)),
    ):
        with OnnxRuntimeBackend.from_bytes(proto.SerializeToString(), name, "cpu") as backend:
            found.append(detections_of(backend, images, of_one))
    if not any(map(len, found[0])):
        raise VerificationError(
            f"the float32 model finds nothing in the {len(images)} held-out images, so a quantised one cannot be"
            " judged; give images of the kind that the model was trained for. No file was written"
        )
    return agreement_between(*found)
