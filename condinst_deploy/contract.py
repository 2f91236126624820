"""The types that everything speaks: detections, image geometry, network tensors and the manifest."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from condinst_deploy.drawing import overlay
from condinst_deploy.errors import ArtifactError, ConfigError
from condinst_deploy.masks import Masks, Selector

if TYPE_CHECKING:
    import supervision

FloatArray = npt.NDArray[np.float32]
Family = Literal["mmdet", "adelaidet"]
"""Reference implementation whose rules a model follows: mmdetection's or AdelaiDet's."""

MANIFEST_VERSION = 1
MANIFEST_KEY = "condinst_deploy"
"""Name of the manifest's entry in an ONNX file's `metadata_props`."""

INPUTS = ("images", "image_sizes")
DRAWN_ABOVE = 0.3
"""Score above which detections are drawn, unless asked otherwise; results keep all of them."""

OUTPUTS = ("num_detections", "boxes", "scores", "labels", "mask_logits")


class NetworkInputs(NamedTuple):
    """What every backend's network takes."""

    images: npt.NDArray[np.uint8]  # (B, 3, H, W) RGB, resized, padded at the bottom and right
    image_sizes: npt.NDArray[np.int32]  # (B, 2) height and width before padding


class NetworkOutputs(NamedTuple):
    """What every backend's network gives; slots are sorted by score, those past the count are empty."""

    num_detections: npt.NDArray[np.int32]  # (B,)
    boxes: FloatArray  # (B, K, 4) xyxy, network pixels
    scores: FloatArray  # (B, K)
    labels: npt.NDArray[np.int32]  # (B, K)
    mask_logits: npt.NDArray[Any]  # (B, K, H/8, W/8) float32 or float16


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input; the defaults are mmdetection's.

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
        values = _known(cls, values)
        for name in {"mean", "std"} & set(values):
            values[name] = tuple(float(v) for v in values[name])
        return cls(**values)


@dataclass(frozen=True)
class Selection:
    """Which predictions become instances; the defaults are mmdetection's.

    | family | threshold and ranking look at | score | boxes |
    | --- | --- | --- | --- |
    | mmdet | class probability | it times centerness | clamped to the picture, empty ones dropped, then NMS |
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
        return cls(**_known(cls, values))


@dataclass(frozen=True)
class ImageGeometry:
    """Sizes of one picture on its way through the network, each `(height, width)`."""

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def of(
        cls, original: tuple[int, int], preprocessing: Preprocessing, canvas: tuple[int, int] | None = None
    ) -> "ImageGeometry":
        """Resized and padded size of a picture: `scale = min(short/min(h, w), long/max(h, w))`.

        The families reach the resized sides by different roundings, which differ by a pixel for some pictures.

        Args:
            original: `(height, width)`.
            preprocessing: the model's sizes.
            canvas: padded size of a model exported with fixed sizes; the picture is made to fit into it.
        """
        sides = _sides_in_two_steps if preprocessing.family == "adelaidet" else _sides_in_one_step
        # the references round a 1:3000 picture's short side to 0 and fail; it keeps one pixel here
        height, width = (max(1, int(side + 0.5)) for side in sides(original, preprocessing, canvas))
        divisor = preprocessing.pad_divisor
        padded = canvas or (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
        return cls(original, (height, width), padded)

    def to_original(self, boxes: FloatArray) -> FloatArray:
        """Boxes `(n, 4)` in network pixels -> original pixels."""
        scale_y, scale_x = (r / o for r, o in zip(self.resized, self.original, strict=True))
        return (boxes / np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float32)).astype(np.float32)

    def clipped(self, boxes: FloatArray) -> FloatArray:
        """Boxes `(n, 4)` in original pixels, clipped to the picture."""
        height, width = self.original
        return boxes.clip(0, np.array([width, height, width, height], dtype=np.float32))


@dataclass(frozen=True)
class ModelManifest:
    """What an artifact says of itself; loading checks it, and nothing is guessed from tensors."""

    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]  # the data set's id of each label, for COCO results
    family: Family = "mmdet"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    selection: Selection = field(default_factory=Selection)
    mask_stride: int = 8
    precision: str = "float32"
    static_shape: tuple[int, int, int] | None = None  # batch, height, width; None: dynamic
    source: str = ""  # name of the file that the weights came from
    source_sha256: str = ""
    tools: dict[str, str] = field(default_factory=dict)  # library -> version
    version: int = MANIFEST_VERSION

    def __post_init__(self) -> None:
        """Check the class list.

        Raises:
            ArtifactError: it is empty, or names and ids do not go together.
        """
        if not self.class_names or len(self.class_names) != len(self.category_ids):
            raise ArtifactError(
                f"the manifest has {len(self.class_names)} class names and {len(self.category_ids)} category ids;"
                " expected as many of one as of the other, and at least one"
            )
        wrong = [name for name, right in self._checks().items() if not right]
        if wrong:
            received = ", ".join(f"{name} is {getattr(self, name)!r}" for name in wrong)
            raise ArtifactError(f"in the manifest {received}, which this release cannot use; export the model again")

    def _checks(self) -> dict[str, bool]:
        static = self.static_shape
        return {
            "class_names": all(isinstance(name, str) for name in self.class_names),
            "category_ids": all(type(i) is int for i in self.category_ids),
            "family": self.family in get_args(Family),
            "preprocessing": self.preprocessing.family == self.family,
            "selection": self.selection.family == self.family,
            "mask_stride": self.mask_stride == 8,
            "precision": isinstance(self.precision, str),
            "static_shape": static is None or (len(static) == 3 and all(type(n) is int and n > 0 for n in static)),
            "tools": isinstance(self.tools, dict),
        }

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "ModelManifest":
        """Read and check what `to_json` wrote.

        Raises:
            ArtifactError: it is not a manifest of a version that this release reads.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as e:
            raise ArtifactError(f"the manifest is not JSON ({e}); export the model again") from e
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: Any) -> "ModelManifest":
        """Rebuild from plain dictionaries, as read from JSON or from a checkpoint.

        Raises:
            ArtifactError: it is not a manifest of a version that this release reads.
        """
        if not isinstance(values, dict) or values.get("version") != MANIFEST_VERSION:
            version = values.get("version") if isinstance(values, dict) else None
            raise ArtifactError(
                f"the manifest has version {version!r}; this release reads {MANIFEST_VERSION}: export the model again"
            )
        try:
            values = _known(cls, values)
            static = values.get("static_shape")
            return cls(
                **values
                | {
                    "class_names": _tuple(values["class_names"]),
                    "category_ids": _tuple(values["category_ids"]),
                    "preprocessing": Preprocessing.from_dict(values["preprocessing"]),
                    "selection": Selection.from_dict(values["selection"]),
                    "static_shape": None if static is None else _tuple(static),
                }
            )
        except (KeyError, TypeError, ValueError, ConfigError) as e:
            raise ArtifactError(f"the manifest cannot be used ({e!r}); export the model again") from e


@dataclass(frozen=True, eq=False, repr=False)
class InstanceDetections:
    """Instances found in one picture, best first.

    Attributes:
        boxes: `(n, 4)` float32 xyxy, original pixels.
        scores: `(n,)` float32.
        labels: `(n,)` int64 indices into `class_names`.
        masks: n compact masks at the picture's original size.
        class_names: the model's classes.
        category_ids: the data set's id of each class.
    """

    boxes: FloatArray
    scores: FloatArray
    labels: npt.NDArray[np.int64]
    masks: Masks
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that the fields go together.

        Raises:
            ConfigError: a shape differs, or a label has no name.
        """
        n = len(self.scores)
        shapes = (self.boxes.shape, self.scores.shape, self.labels.shape, len(self.masks))
        if shapes != ((n, 4), (n,), (n,), n):
            raise ConfigError(f"boxes, scores, labels, masks have sizes {shapes}; expected (n, 4), (n,), (n,), n")
        if n and not 0 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            outlier = min(self.labels.min(), 0) or self.labels.max()
            raise ConfigError(f"labels reach {outlier}; there are {len(self.class_names)} class names")

    def __repr__(self) -> str:
        best = ", ".join(f"{name} {score:.2f}" for name, score in zip(self.names[:3], self.scores[:3], strict=True))
        height, width = self.masks.size
        return f"InstanceDetections({len(self)} in {width}x{height}{': ' + best if best else ''})"

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, which: Selector) -> "InstanceDetections":
        """The detections of an index, a slice, a list of indices or a bool array `(n,)`."""
        picked = np.atleast_1d(np.arange(len(self))[which])
        return InstanceDetections(
            self.boxes[picked],
            self.scores[picked],
            self.labels[picked],
            self.masks[picked],
            self.class_names,
            self.category_ids,
        )

    def __iter__(self) -> Iterator["InstanceDetections"]:
        return (self[i] for i in range(len(self)))

    @cached_property
    def names(self) -> list[str]:
        """Class name of each detection."""
        return [self.class_names[label] for label in self.labels]

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Entries of a COCO results file: category ids of the data set, `bbox` as xywh, RLE as text."""
        corners = self.boxes.astype(np.float64)
        xywh = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
        return [
            {
                "image_id": image_id,
                "category_id": self.category_ids[label],
                "bbox": box.tolist(),
                "score": float(score),
                "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
            }
            for label, box, score, rle in zip(self.labels, xywh, self.scores, self.masks.rle(), strict=True)
        ]

    def to_supervision(self) -> "supervision.Detections":
        """The same as `supervision.Detections`, with dense masks (needs the extra `viz`)."""
        try:
            import supervision
        except ImportError as e:
            raise ConfigError(
                "to_supervision needs the package supervision: pip install '.[viz]' in the repository"
            ) from e
        return supervision.Detections(
            xyxy=self.boxes,
            mask=np.asarray(self.masks),
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )

    def draw(self, image: npt.NDArray[np.uint8] | Image.Image, score_threshold: float = DRAWN_ABOVE) -> Image.Image:
        """Overlay of masks, boxes, names and scores on the picture they were found in.

        Args:
            image: RGB or grey uint8 array, or PIL image (turned upright by its EXIF, as for prediction).
            score_threshold: draw detections that score above it; 0 draws all.
        """
        if isinstance(image, Image.Image):
            image = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        pixels = np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image
        if pixels.shape != (*self.masks.size, 3) or pixels.dtype != np.uint8:
            raise ConfigError(
                f"the picture to draw on is {pixels.dtype} {pixels.shape};"
                f" expected uint8 {(*self.masks.size, 3)}, the picture that was predicted on"
            )
        drawn = self[self.scores > score_threshold]
        captions = [f"{name} {score:.2f}" for name, score in zip(drawn.names, drawn.scores, strict=True)]
        return overlay(pixels, drawn.boxes, captions, drawn.masks)


def _sides_in_one_step(
    original: tuple[int, int], preprocessing: Preprocessing, canvas: tuple[int, int] | None
) -> tuple[float, float]:
    """The way of mmdetection: the smallest of all scales."""
    short, long = min(original), max(original)
    scale = min(preprocessing.short_side / short, preprocessing.long_side / long)
    if canvas is not None:
        scale = min(scale, *(limit / side for limit, side in zip(canvas, original, strict=True)))
    return original[0] * scale, original[1] * scale


def _sides_in_two_steps(
    original: tuple[int, int], preprocessing: Preprocessing, canvas: tuple[int, int] | None
) -> tuple[float, float]:
    """The way of detectron2's ResizeShortestEdge: the short side first, then whatever limit is exceeded.

    In floating point the order matters: 222x372 gives a height of 795.5 in one step and just below it in two.
    """
    short = float(preprocessing.short_side)
    scale = short / min(original)
    height, width = (short, scale * original[1]) if original[0] < original[1] else (scale * original[0], short)
    if max(height, width) > preprocessing.long_side:
        scale = preprocessing.long_side / max(height, width)
        height, width = height * scale, width * scale
    if canvas is not None:
        scale = min(1.0, canvas[0] / height, canvas[1] / width)
        height, width = height * scale, width * scale
    return height, width


def check_family(family: Any) -> None:
    """Raise a `ConfigError` unless `family` is one."""
    if family not in get_args(Family):
        raise ConfigError(f"family is {family!r}; expected one of {', '.join(get_args(Family))}")


def _known(cls: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """A copy of `values`, checked to have only fields of the dataclass `cls`."""
    unknown = sorted(set(values) - {f.name for f in fields(cls)})
    if unknown:
        raise ConfigError(f"unknown settings of {cls.__name__}: {', '.join(unknown)}")
    return dict(values)


def _tuple(values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise TypeError(f"a list was expected, not {values!r}")
    return tuple(values)


def default_class_names(num_classes: int) -> tuple[str, ...]:
    """Names of classes that nobody named."""
    return tuple(f"class_{i}" for i in range(num_classes))


def contiguous_ids(names: Sequence[str]) -> tuple[int, ...]:
    """Category ids 1..n, the custom of COCO-format data sets."""
    return tuple(range(1, len(names) + 1))
