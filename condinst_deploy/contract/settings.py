"""What a model was made with: how images are prepared, and which predictions become instances."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from condinst_deploy.errors import ConfigError

Family = Literal["mmdet", "adelaidet"]
"""Reference implementation whose rules a model follows: mmdetection's or AdelaiDet's."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the network's input; the defaults are mmdetection's.

    AdelaiDet's networks see BGR; here the input is RGB for every family, and the order of the first
    convolution's weights follows (`model/families.py`).
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
        if self.short_side < 1 or self.long_side < self.short_side:
            raise ConfigError(
                f"short side {self.short_side} and long side {self.long_side}: expected 1 <= short <= long"
            )
        if self.pad_divisor < 32 or self.pad_divisor % 32:
            raise ConfigError(f"pad_divisor is {self.pad_divisor}; expected a multiple of 32")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(v > 0 for v in self.std):
            raise ConfigError(f"mean {self.mean} and std {self.std}: expected three numbers each, std above 0")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """Rebuild from a manifest's or a checkpoint's entry."""
        values = known_fields(cls, values)
        for name in {"mean", "std"} & set(values):
            values[name] = tuple(float(v) for v in values[name])
        return cls(**values)


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
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a number in 0..1")
        for name in ("candidates_per_level", "max_detections"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected a whole number of at least 1")

    @property
    def lowest_score(self) -> float:
        """The threshold on the scale of the scores: AdelaiDet's are square roots of what it is compared with."""
        return math.sqrt(self.score_threshold) if self.family == "adelaidet" else self.score_threshold

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Selection":
        """Rebuild from a manifest's or a checkpoint's entry."""
        return cls(**known_fields(cls, values))


def check_family(family: Any) -> None:
    """Raise a `ConfigError` unless `family` is one."""
    if family not in get_args(Family):
        raise ConfigError(f"family is {family!r}; expected one of {', '.join(get_args(Family))}")


def known_fields(cls: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of `values`, checked to have only fields of the dataclass `cls`."""
    unknown = sorted(set(values) - {f.name for f in fields(cls)})
    if unknown:
        raise ConfigError(f"unknown settings of {cls.__name__}: {', '.join(unknown)}")
    return dict(values)
