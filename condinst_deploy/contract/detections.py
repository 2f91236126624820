"""Instances found in an image, and conversions to other formats."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from condinst_deploy.contract.tensors import FloatArray
from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.imaging.drawing import Overlay, enlarged_side, overlay
from condinst_deploy.masks import Masks, Selector
from condinst_deploy.shown_text import shown
from condinst_deploy.support.extras import install_command
from condinst_deploy.support.validation import Limits, checked_number

if TYPE_CHECKING:
    import supervision

LONGEST_CAPTION = 60
"""Characters of a class name that are drawn."""

DRAWN_ABOVE = 0.3
"""Score above which detections are drawn, unless asked otherwise; results keep all of them."""


@dataclass(frozen=True, eq=False, repr=False)
class InstanceDetections:
    """Instances found in one image, best first.

    Attributes:
        boxes: `(n, 4)` float32 xyxy, original pixels.
        scores: `(n,)` float32.
        labels: `(n,)` int64 indices into `class_names`.
        masks: n compact masks at the image's original size.
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
        best = ", ".join(
            f"{shown(name, LONGEST_CAPTION)} {score:.2f}"
            for name, score in zip(self.names[:3], self.scores[:3], strict=True)
        )
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
        """Return `supervision.Detections` with dense masks (needs the extra `viz`)."""
        try:
            import supervision
        except ImportError as e:
            raise ConfigError(f"to_supervision needs the package supervision: {install_command('viz')}") from e
        return supervision.Detections(
            xyxy=self.boxes,
            mask=np.asarray(self.masks),
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )

    def draw(
        self,
        image: Any,
        score_threshold: float = DRAWN_ABOVE,
        longest_side: int | None = None,
        min_longest_side: int | None = None,
    ) -> Image.Image:
        """Overlay of masks, boxes, names and scores on the image they were found in.

        Texts have a smallest height. Several labels cover at most a fifth of the overlay; those for which there is no
        room are left out. An image of less than about 400 pixels shows more of them, and more of itself, enlarged.

        Args:
            image: whatever `Predictor` took: a path, an array, a PIL image or a tensor. It is read in the same way.
            score_threshold: draw detections that score above it; 0 draws all.
            longest_side: pixels that the longest side of the overlay has; None: the image's own size. Lines and
                captions are drawn after the scaling.
            min_longest_side: pixels that the longest side has at least, 1 to 32,750: a smaller image is enlarged by a
                whole factor. Overlay files of the commands have 640. Not with `longest_side`.

        Raises:
            ConfigError: the image has another size than the image that was predicted on, an option is no number, or
                both sides are given.
            ImageError: the image cannot be decoded, or is of no type that `Predictor` takes.
        """
        return self.overlay(image, score_threshold, longest_side, min_longest_side).image

    def overlay(
        self,
        image: Any,
        score_threshold: float = DRAWN_ABOVE,
        longest_side: int | None = None,
        min_longest_side: int | None = None,
    ) -> Overlay:
        """What `draw` draws, with the numbers of detections that are drawn and of labels that are left out.

        Arguments and errors are those of `draw`.
        """
        if longest_side is not None and min_longest_side is not None:
            raise ConfigError(
                f"longest_side is {longest_side} and min_longest_side is {min_longest_side}; expected one of them"
            )
        above = checked_number("score_threshold", score_threshold, Limits())
        height, width = self.masks.size
        is_rgb = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == (height, width, 3)
        pixels = image if is_rgb else rgb_from(image)  # no copy of an image that can be drawn from
        if pixels.shape != (height, width, 3):
            raise ConfigError(
                f"the image to draw on is {pixels.shape[1]}x{pixels.shape[0]}; expected {width}x{height}, the image"
                " that was predicted on"
            )
        if min_longest_side is not None:
            longest_side = enlarged_side(max(height, width), min_longest_side)
        drawn = self[self.scores > above]
        captions = [f"{name} {score:.2f}".lstrip() for name, score in zip(drawn.names, drawn.scores, strict=True)]
        return overlay(pixels, drawn.boxes, captions, drawn.masks, drawn.labels.tolist(), longest_side)
