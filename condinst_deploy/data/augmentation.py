"""Random colours, scales and crops of training examples; everything is off unless a recipe asks for it."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from condinst_deploy.contract.model_settings import SIDE
from condinst_deploy.errors import SettingError
from condinst_deploy.model.targets import ImageTargets
from condinst_deploy.support.option_types import check_types
from condinst_deploy.support.validation import Limits, check_number

DRAWS = 8
"""Random numbers that an example takes, whatever is on: one example's settings do not change another's numbers."""

SHARE, HUE, SCALE = Limits(0, 1), Limits(0, 0.5), Limits(0.05, 20)


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images, besides size and flip.

    A factor is drawn evenly from `1 - x` to `1 + x` for brightness, contrast and saturation, and a turn of the colour
    circle from `-x` to `x` for hue. They are applied in this order.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # up to 0.5: half a turn
    scale: tuple[float, float] = (1.0, 1.0)  # factor of the size that was drawn, evenly from least to most
    crop: int = 0  # largest side in pixels; what is larger is cropped at a random place; 0: not

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: one is outside its range.
        """
        check_types(self, "augment.")
        for name in ("brightness", "contrast", "saturation"):
            check_number(f"augment.{name}", getattr(self, name), SHARE)
        check_number("augment.hue", self.hue, HUE)
        for i, factor in enumerate(self.scale):
            check_number(f"augment.scale[{i}]", factor, SCALE)
        if self.scale[0] > self.scale[1]:
            raise SettingError("augment.scale", f"is {list(self.scale)}; expected the least factor first")
        if self.crop:
            check_number("augment.crop", self.crop, SIDE)

    @property
    def on(self) -> bool:
        """Return whether any change is switched on."""
        return self != Augmentation()

    def factor(self, drawn: npt.NDArray[np.float64]) -> float:
        """Factor of the image's size, by the random numbers `(DRAWS,)` of an example."""
        least, most = self.scale
        return float(least + (most - least) * drawn[0])


def coloured(
    image: npt.NDArray[np.uint8], settings: Augmentation, drawn: npt.NDArray[np.float64]
) -> npt.NDArray[np.uint8]:
    """An image `(h, w, 3)` RGB with other colours, by the random numbers `(DRAWS,)` of an example."""
    turns = 2 * drawn[1:5] - 1  # -1..1
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    if settings.brightness:
        pixels = functional.adjust_brightness(pixels, 1 + settings.brightness * turns[0])
    if settings.contrast:
        pixels = functional.adjust_contrast(pixels, 1 + settings.contrast * turns[1])
    if settings.saturation:
        pixels = functional.adjust_saturation(pixels, 1 + settings.saturation * turns[2])
    if settings.hue:
        pixels = functional.adjust_hue(pixels, settings.hue * turns[3])
    return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())


def cropped(
    image: npt.NDArray[np.uint8], targets: ImageTargets, settings: Augmentation, drawn: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.uint8], ImageTargets]:
    """A crop of an image and its targets, by the random numbers `(DRAWS,)` of an example.

    The box of an object that is cut becomes that of what is left of its mask; an object with nothing left is no target.
    """
    height, width = image.shape[:2]
    new_height, new_width = min(height, settings.crop), min(width, settings.crop)
    if (new_height, new_width) == (height, width):
        return image, targets
    top, left = int(drawn[5] * (height - new_height + 1)), int(drawn[6] * (width - new_width + 1))
    place = (top, left, new_height, new_width)
    masks = functional.crop(tv_tensors.Mask(targets.masks), *place).as_subclass(Tensor)
    boxes = targets.boxes - targets.boxes.new_tensor([left, top, left, top])
    left_over = masks.flatten(1).any(dim=1)
    cut = masks.flatten(1).sum(dim=1) < targets.masks.flatten(1).sum(dim=1)
    limit = boxes.new_tensor([new_width, new_height, new_width, new_height])
    boxes = boxes.minimum(limit).clamp(min=0)
    again = left_over & cut
    boxes[again] = _boxes_of(masks[again])
    kept = ImageTargets(boxes[left_over], targets.labels[left_over], masks[left_over].contiguous())
    return np.ascontiguousarray(image[top : top + new_height, left : left + new_width]), kept


def _boxes_of(masks: Tensor) -> Tensor:
    """Boxes `(n, 4)` of masks `(n, h, w)` that are not empty, xyxy."""
    spans = []
    for axis in (1, 2):  # over rows: columns that are set
        hit = masks.any(dim=axis).to(torch.uint8)
        low = hit.argmax(dim=1)
        high = hit.shape[1] - hit.flip(1).argmax(dim=1)
        spans.append((low, high))
    (x1, x2), (y1, y2) = spans
    return torch.stack((x1, y1, x2, y2), dim=1).to(torch.float32)
