"""Sizes of an image on its way through the network."""

from dataclasses import dataclass

import numpy as np

from condinst_deploy.contract.model_settings import Preprocessing
from condinst_deploy.contract.tensors import FloatArray


@dataclass(frozen=True)
class ImageGeometry:
    """Sizes of one image on its way through the network, each `(height, width)`."""

    original: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @classmethod
    def of(
        cls, original: tuple[int, int], preprocessing: Preprocessing, canvas: tuple[int, int] | None = None
    ) -> "ImageGeometry":
        """Resized and padded size of an image: `scale = min(short/min(h, w), long/max(h, w))`.

        The families reach the resized sides by different roundings, which differ by a pixel for some images.

        Args:
            original: `(height, width)`.
            preprocessing: the model's sizes.
            canvas: padded size of a model exported with fixed sizes; the image is made to fit into it.
        """
        sides = _sides_in_two_steps if preprocessing.family == "adelaidet" else _sides_in_one_step
        # the references round a 1:3000 image's short side to 0 and fail; it keeps one pixel here
        height, width = (max(1, int(side + 0.5)) for side in sides(original, preprocessing, canvas))
        divisor = preprocessing.pad_divisor
        padded = canvas or (-(-height // divisor) * divisor, -(-width // divisor) * divisor)
        return cls(original, (height, width), padded)

    def to_original(self, boxes: FloatArray) -> FloatArray:
        """Boxes `(n, 4)` in network pixels -> original pixels."""
        scale_y, scale_x = (r / o for r, o in zip(self.resized, self.original, strict=True))
        return (boxes / np.array([scale_x, scale_y, scale_x, scale_y], dtype=np.float32)).astype(np.float32)

    def clipped(self, boxes: FloatArray) -> FloatArray:
        """Boxes `(n, 4)` in original pixels, clipped to the image."""
        height, width = self.original
        return boxes.clip(0, np.array([width, height, width, height], dtype=np.float32))


def _sides_in_one_step(
    original: tuple[int, int], preprocessing: Preprocessing, canvas: tuple[int, int] | None
) -> tuple[float, float]:
    """The rule of mmdetection: the smallest of all scales."""
    short, long = min(original), max(original)
    scale = min(preprocessing.short_side / short, preprocessing.long_side / long)
    if canvas is not None:
        scale = min(scale, *(limit / side for limit, side in zip(canvas, original, strict=True)))
    return original[0] * scale, original[1] * scale


def _sides_in_two_steps(
    original: tuple[int, int], preprocessing: Preprocessing, canvas: tuple[int, int] | None
) -> tuple[float, float]:
    """The rule of detectron2's ResizeShortestEdge: the short side first, then the limit that is exceeded.

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
