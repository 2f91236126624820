"""Measured magnitudes of an engine's half tensors, as its manifest records them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from condinst_deploy.errors import ArtifactError
from condinst_deploy.shown_text import counted

Handling = Literal["scale", "bfloat16", "float32"]


@dataclass(frozen=True)
class HandledNode:
    """A node whose tensor came too close to the largest number of float16, or lost detections, and what was done."""

    node: str  # name, or a pattern of the convolutions that share a weight
    magnitude: float  # largest before it was handled
    handling: Handling
    power: int = 0  # of a scale: 2^-power of the output is computed
    matched: float | None = None  # share of float32's detections with it in half, where that is why it was handled

    def __post_init__(self) -> None:
        """Check the kind.

        Raises:
            ArtifactError: it is unknown.
        """
        if self.handling not in get_args(Handling):
            raise ArtifactError(f"the ranges name the handling {self.handling!r}; expected one of {get_args(Handling)}")

    def __str__(self) -> str:
        done = f"scaled by 2^-{self.power}" if self.handling == "scale" else f"in {self.handling}"
        if self.matched is not None:
            return f"{self.node} in half keeps only {self.matched:.1%} of float32's detections: {done}"
        return f"{self.node} reaches {self.magnitude:.4g}: {done}"


@dataclass(frozen=True)
class CheckedRanges:
    """The range check of a half build."""

    source: str  # of the images: a folder's name, or the built-in set
    images: int
    images_sha256: str  # of what the network was given
    limit: float  # magnitudes that float16 tensors stay below after the handling
    blocks: Mapping[str, float]  # part of the network -> largest magnitude of its half tensors after the handling
    matched: float | None = None  # share of float32's detections that the rounded graph has, too; None: it has none
    half_work: float | None = None  # share of the convolutions' work in half types; None: there are none
    handled: tuple[HandledNode, ...] = ()
    policy: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # as [policy] of a recipe says it

    @property
    def largest(self) -> tuple[str, float]:
        """The block with the largest magnitude."""
        return max(self.blocks.items(), key=lambda entry: entry[1], default=("no half tensor", 0.0))

    def __str__(self) -> str:
        block, largest = self.largest
        counts = ", ".join(
            f"{sum(node.handling == kind for node in self.handled)} {words}"
            for kind, words in (("scale", "scaled"), ("bfloat16", "in bfloat16"), ("float32", "in float32"))
        )
        return (
            f"largest magnitude {largest:.4g} ({block}) on {counted(self.images, 'image')} ({self.source}),"
            f" limit {self.limit:.4g}; handled: {counts if self.handled else 'nothing'}"
            + ("" if self.matched is None else f"; {self.matched:.1%} of float32's detections matched")
            + ("" if self.half_work is None else f"; {self.half_work:.1%} of the convolutions' work in half")
        )
