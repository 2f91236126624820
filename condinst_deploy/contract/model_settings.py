"""Settings of a model: how images are prepared, and which predictions become instances."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from condinst_deploy.errors import ConfigError, SettingError
from condinst_deploy.support.validation import Limits, check_choice, check_number, typed

Family = Literal["mmdet", "adelaidet"]
"""Reference implementation whose rules a model follows: mmdetection's or AdelaiDet's."""

LARGEST_SIDE = 16_384
"""Largest side of a network's input, in pixels."""

MOST_DETECTIONS, MOST_CANDIDATES = 10_000, 1_000_000
"""Largest limits of an image's detections and of a level's candidates. A file's settings size nothing beyond these."""

SIDE = Limits(1, LARGEST_SIDE, whole=True)

SHARE, DETECTIONS = Limits(0, 1), Limits(1, MOST_DETECTIONS, whole=True)
"""Limits of thresholds, and of the number of an image's detections."""


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of an image into the network's input; the defaults are mmdetection's.

    AdelaiDet's networks see BGR; here the input is RGB for every family, and the order of the first
    convolution's weights follows (`model/published_checkpoints.py`).
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # RGB
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)  # RGB
    short_side: int = 800
    long_side: int = 1333
    pad_divisor: int = 32
    family: Family = "mmdet"  # whose rounding of the resized sides

    def __post_init__(self) -> None:
        """Check the sizes.

        Raises:
            ConfigError: a size is not positive, the padding does not suit the backbone, or the family is unknown.
        """
        check_family(self.family)
        for name in ("short_side", "long_side", "pad_divisor"):
            check_number(name, getattr(self, name), SIDE)
        if self.long_side < self.short_side:
            raise ConfigError(
                f"short side {self.short_side} and long side {self.long_side}: expected 1 <= short <= long"
            )
        if self.pad_divisor % 32:
            raise SettingError("pad_divisor", f"is {self.pad_divisor}; expected a multiple of 32")
        for name in ("mean", "std"):
            self._check_channels(name)

    def _check_channels(self, name: str) -> None:
        values = getattr(self, name)
        if len(values) != 3:
            raise SettingError(name, f"has {len(values)} entries; expected three numbers each for mean and std")
        for i, value in enumerate(values):
            check_number(f"{name}[{i}]", value, Limits(0, open=True) if name == "std" else Limits())

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """Rebuild from a manifest's or a checkpoint's entry.

        Raises:
            ConfigError: a setting is unknown or cannot be used.
        """
        return typed(values, cls)


@dataclass(frozen=True)
class Selection:
    """Which predictions become instances; the defaults are mmdetection's.

    | family | threshold and ranking look at | score | boxes |
    | --- | --- | --- | --- |
    | mmdet | class probability | it times centerness | clamped to the image, empty ones dropped, then NMS |
    | adelaidet | class probability times centerness | its square root | NMS, then clipped, empty ones dropped |

    AdelaiDet keeps every detection that ties with the last one; here `max_detections` is a limit for both.
    """

    score_threshold: float = 0.05  # strict
    candidates_per_level: int = 1000
    nms_iou: float = 0.6
    max_detections: int = 100
    family: Family = "mmdet"

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ConfigError: a threshold is outside 0..1, a limit is not positive, or the family is unknown.
        """
        check_family(self.family)
        for name in ("score_threshold", "nms_iou"):
            check_number(name, getattr(self, name), SHARE)
        check_number("candidates_per_level", self.candidates_per_level, Limits(1, MOST_CANDIDATES, whole=True))
        check_number("max_detections", self.max_detections, DETECTIONS)

    @property
    def lowest_score(self) -> float:
        """The threshold on the scale of the scores: AdelaiDet's are square roots of what it is compared with."""
        return math.sqrt(self.score_threshold) if self.family == "adelaidet" else self.score_threshold

    def widened(self, score_threshold: float | None = None, max_detections: int | None = None) -> "Selection":
        """The selection that also lets through what a filter with other limits asks for.

        Args:
            score_threshold: on the scale of the scores; one above the own threshold changes nothing.
            max_detections: a number below the own maximum changes nothing.

        Raises:
            ConfigError: a limit is outside its range.
        """
        threshold, most = self.score_threshold, self.max_detections
        if score_threshold is not None and score_threshold < self.lowest_score:
            threshold = score_threshold
            if self.family == "adelaidet":  # down, so that the root is not above what was asked for
                threshold = max(0.0, math.nextafter(score_threshold**2, 0))
        if max_detections is not None:
            most = max(most, max_detections)
        return replace(self, score_threshold=threshold, max_detections=most)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Selection":
        """Rebuild from a manifest's or a checkpoint's entry.

        Raises:
            ConfigError: a setting is unknown or cannot be used.
        """
        return typed(values, cls)


def check_family(family: Any) -> None:
    """Raise a `ConfigError` unless `family` is one."""
    check_choice("family", family, Family)
