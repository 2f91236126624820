"""Record of how the 8-bit tensors of a model file were found, as its manifest keeps it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from condinst_deploy.errors import ArtifactError
from condinst_deploy.shown_text import counted

Scheme = Literal["uint8 activations, int8 weights", "int8", "fp8"]


@dataclass(frozen=True)
class HeldOutAgreement:
    """Detections of the quantised graph beside those of the float32 graph, on images that were not calibrated on."""

    images: int
    reference: int  # detections of the float32 graph
    other: int  # detections of the quantised graph
    matched_share: float  # share of the float32 graph's detections with a partner: equal label, box IoU of at least ...
    min_box_iou: float  # ... this
    median_mask_iou: float | None  # of the pairs; None: there are none

    def __str__(self) -> str:
        if not self.reference:
            return (
                f"float32 finds nothing in {counted(self.images, 'held-out image')}, so what 8 bits cost is not known"
            )
        masks = "" if self.median_mask_iou is None else f", median mask IoU {self.median_mask_iou:.4f}"
        return (
            f"{self.matched_share:.1%} of float32's {self.reference} detections matched on"
            f" {counted(self.images, 'held-out image')} (equal label, box IoU at least {self.min_box_iou:g}){masks}"
        )


@dataclass(frozen=True)
class Quantization:
    """One quantisation."""

    scheme: Scheme
    method: str  # that chose the ranges of the activations
    source: str  # of the calibration images: a folder's name
    images: int
    images_sha256: str  # of what the network was given
    convolutions: int  # that are quantised
    kept_float: tuple[str, ...] = ()  # CPU files: patterns of convolutions that stayed in float32
    ranges: Mapping[str, float] = field(default_factory=dict)  # engines: tensor -> magnitude of the largest code
    agreement: HeldOutAgreement | None = None

    def __post_init__(self) -> None:
        """Check the scheme and the ranges.

        Raises:
            ArtifactError: the scheme is unknown, or a range is not above 0.
        """
        if self.scheme not in get_args(Scheme):
            raise ArtifactError(f"the quantisation has the scheme {self.scheme!r}; expected one of {get_args(Scheme)}")
        for name, magnitude in self.ranges.items():
            if not 0 < magnitude < math.inf:
                raise ArtifactError(f"the quantisation's range of {name!r} is {magnitude:g}; expected a number above 0")

    def with_convolutions(self, count: int) -> "Quantization":
        """This record for a graph with another number of quantised convolutions."""
        return replace(self, convolutions=count)

    def __str__(self) -> str:
        return (
            f"{counted(self.convolutions, 'convolution')} in 8 bits ({self.scheme}), ranges by {self.method} on"
            f" {counted(self.images, 'image')} ({self.source})"
        )
