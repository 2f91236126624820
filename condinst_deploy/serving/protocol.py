"""Content of requests to a served model and of its answers, shared by server and client.

One request has one image: the input `IMAGE`, BYTES, shape `(1, 1)`, the encoded file (JPEG, PNG, ...). The first axis
is Triton's batch axis; batching happens inside the server. Options are request parameters. Outputs, for n instances
of an image of H x W pixels:

| output | type | shape | meaning |
| --- | --- | --- | --- |
| `BOXES` | FP32 | `(1, n, 4)` | xyxy, original pixels |
| `SCORES` | FP32 | `(1, n)` | best first |
| `LABELS` | INT32 | `(1, n)` | indices into the model's class names |
| `IMAGE_SIZE` | INT32 | `(1, 2)` | H, W after EXIF orientation |
| `RLE_COUNTS` | BYTES | `(1, n)` | `counts` of COCO's compressed RLE; its `size` is `IMAGE_SIZE` |
| `MASKS` | UINT8 | `(1, n, H, W)` | dense masks, 0 or 1; only with the parameter `masks` = `dense` |
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from condinst_deploy.contract.manifest import label_of
from condinst_deploy.contract.model_settings import DETECTIONS, SHARE
from condinst_deploy.errors import ConfigError
from condinst_deploy.support.option_types import check_types
from condinst_deploy.support.suggestions import did_you_mean
from condinst_deploy.support.validation import check_given

IMAGE = "IMAGE"
BOXES, SCORES, LABELS, IMAGE_SIZE, RLE_COUNTS, MASKS = OUTPUTS = (
    "BOXES",
    "SCORES",
    "LABELS",
    "IMAGE_SIZE",
    "RLE_COUNTS",
    "MASKS",
)
MODEL = "condinst"
"""Name of the model that clients ask."""

NETWORK = "condinst_network"
"""Name of the model with the network alone, in the layout of two models."""

MANIFEST_PARAMETER = "condinst_manifest"
"""Parameter of the served model's configuration that holds its manifest as JSON; clients read class names there."""

PARAMETERS = ("score_threshold", "classes", "max_detections", "masks")
MaskForm = Literal["rle", "dense", "none"]

LONGEST_TEXT = 10_000
"""Characters of a parameter's text."""


@dataclass(frozen=True)
class RequestOptions:
    """Options of one request."""

    score_threshold: float | None = None  # keep scores above it; None: the model's own
    classes: tuple[str, ...] | None = None  # names to keep; None: all
    max_detections: int | None = None  # most detections of an image; None: the model's own
    masks: MaskForm = "rle"

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: a value has a wrong type or is out of range.
        """
        check_types(self)
        check_given(self, score_threshold=SHARE, max_detections=DETECTIONS)
        if self.masks not in get_args(MaskForm):
            raise ConfigError(f"masks is {self.masks!r:.40}; expected one of {', '.join(get_args(MaskForm))}")

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> "RequestOptions":
        """Read the parameters of a request. HTTP clients may send numbers as text, which is accepted.

        Raises:
            ConfigError: a parameter is unknown, or its value cannot be used.
        """
        unknown = [name for name in parameters if name not in PARAMETERS]
        if unknown:
            raise ConfigError(
                f"unknown parameter {unknown[0]!r:.60}; expected {', '.join(PARAMETERS)}"
                f"{did_you_mean(unknown[0][:60], PARAMETERS)}"
            )
        return cls(
            score_threshold=_number(parameters, "score_threshold", float),
            classes=_names(parameters.get("classes")),
            max_detections=_number(parameters, "max_detections", int),
            masks=parameters.get("masks", "rle"),
        )

    def to_parameters(self) -> dict[str, str | int]:
        """Return the values as request parameters. A float is sent as text, because older servers accept no floats."""
        given: dict[str, str | int] = {}
        if self.score_threshold is not None:
            given["score_threshold"] = repr(self.score_threshold)
        if self.classes is not None:
            given["classes"] = ",".join(self.classes)
        if self.max_detections is not None:
            given["max_detections"] = self.max_detections
        return given if self.masks == "rle" else given | {"masks": self.masks}


def _number(parameters: Mapping[str, Any], name: str, kind: type[float] | type[int]) -> Any:
    value = parameters.get(name)
    if value is None:
        return None
    expected = "a whole number" if kind is int else "a number"
    if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)[:100]) >= 100:
        raise ConfigError(f"{name} is {value!r:.60}; expected {expected}")
    try:
        return kind(value) if isinstance(value, str) or kind is float or isinstance(value, int) else kind(repr(value))
    except (ValueError, OverflowError) as e:
        raise ConfigError(f"{name} is {value!r:.60}; expected {expected}") from e


def _names(value: Any) -> tuple[str, ...] | None:
    """Class names: text with commas between them."""
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > LONGEST_TEXT:
        raise ConfigError(f"classes is {value!r:.60}; expected class names with commas between them")
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise ConfigError("classes names no class; expected class names with commas between them")
    return names


def labels_of(names: Sequence[str], class_names: Sequence[str]) -> frozenset[int]:
    """Labels of class names.

    Raises:
        ConfigError: the model has no class of that name.
    """
    return frozenset(label_of(class_names, name) for name in names)
