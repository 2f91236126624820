"""Samples -> training examples -> batches: resizing, flipping and padding as the network sees images."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.contract.model_settings import SIDE
from condinst_deploy.data.augmentation import DRAWS, Augmentation, coloured, cropped
from condinst_deploy.data.coco import Sample, masks_at
from condinst_deploy.errors import ConfigError
from condinst_deploy.imaging.resize import resized_image
from condinst_deploy.model.boxinst import box_masks
from condinst_deploy.model.targets import ImageTargets


@dataclass(frozen=True, eq=False)
class TrainingExample:
    """One resized image and what to learn from it."""

    image: npt.NDArray[np.uint8]  # (h, w, 3) RGB
    targets: ImageTargets  # masks (n, h, w)


class Source(NamedTuple):
    """Source of a training example."""

    position: int  # in the run's endless row of images
    image_id: int
    name: str  # of the file


@dataclass(frozen=True, eq=False)
class TrainingBatch:
    """Images padded at the bottom and right to one size, and their targets."""

    images: Tensor  # (B, 3, H, W) uint8 RGB
    image_sizes: Tensor  # (B, 2) int64 height and width before padding
    targets: tuple[ImageTargets, ...]  # masks (n, H, W)
    sources: tuple[Source, ...] = ()  # B, or none if they are not needed

    def to(self, device: torch.device) -> "TrainingBatch":
        """Return a copy on another device; copies from pinned memory do not wait."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            image_sizes=self.image_sizes.to(device, non_blocking=True),
            targets=tuple(target.to(device) for target in self.targets),
        )


@dataclass(frozen=True)
class TrainingTransform:
    """Resize to a short side drawn at random, flip at random, and change what the augmentation says."""

    preprocessing: Preprocessing
    short_sides: tuple[int, ...]  # one is drawn for each image
    flip: float  # probability
    augmentation: Augmentation = field(default_factory=Augmentation)
    boxes_only: bool = False  # masks are the boxes

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigError: there is no short side, one does not suit the long side, or `flip` is no probability.
        """
        if not self.short_sides:
            raise ConfigError("there are no short sides to resize to; expected at least one")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"flip is {self.flip}; expected a probability in 0..1")
        for side in self.short_sides:
            replace(self.preprocessing, short_side=side)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> TrainingExample:
        """Make one example; `rng` decides it, the same number of draws for every sample."""
        side = self.short_sides[int(rng.integers(len(self.short_sides)))]
        flipped = rng.random() < self.flip
        preprocessing = replace(self.preprocessing, short_side=side)
        if not self.augmentation.on:
            return self._resized(sample, preprocessing, flipped)
        drawn = rng.random(DRAWS)
        example = self._resized(sample, _scaled(preprocessing, self.augmentation.factor(drawn)), flipped)
        image, targets = example.image, example.targets
        if self.augmentation.crop:
            image, targets = cropped(image, targets, self.augmentation, drawn)
        return TrainingExample(coloured(image, self.augmentation, drawn), targets)

    def _resized(self, sample: Sample, preprocessing: Preprocessing, flipped: bool) -> TrainingExample:
        if not self.boxes_only:
            return resized(sample, preprocessing, flipped)
        example = resized(replace(sample, segmentations=()), preprocessing, flipped)
        boxes = example.targets.boxes
        masks = box_masks(boxes, (example.image.shape[0], example.image.shape[1]))
        return TrainingExample(example.image, ImageTargets(boxes, example.targets.labels, masks))


def _scaled(preprocessing: Preprocessing, factor: float) -> Preprocessing:
    """Sizes times a factor, within what sizes can be."""
    sides = (preprocessing.short_side, preprocessing.long_side)
    short, long = (max(1, min(round(side * factor), int(SIDE.most))) for side in sides)
    return replace(preprocessing, short_side=short, long_side=max(short, long))


def resized(sample: Sample, preprocessing: Preprocessing, flipped: bool = False) -> TrainingExample:
    """Resize image, boxes and masks to the size and in the way of inference, and mirror them if `flipped`."""
    height, width = sample.image.shape[:2]
    new_height, new_width = ImageGeometry.of((height, width), preprocessing).resized
    image = resized_image(sample.image, (new_height, new_width))
    scale = np.array([new_width / width, new_height / height] * 2, dtype=np.float32)
    limit = np.array([new_width, new_height] * 2, dtype=np.float32)
    targets = ImageTargets(
        boxes=torch.from_numpy((sample.boxes * scale).clip(0, limit)),
        labels=torch.from_numpy(sample.labels),
        masks=torch.from_numpy(masks_at(sample, (new_height, new_width), flipped)),
    )
    example = TrainingExample(np.array(image), targets)
    return _mirrored(example) if flipped else example


def _mirrored(example: TrainingExample) -> TrainingExample:
    """Mirror image and boxes from left to right; the masks are mirrored already."""
    width = example.image.shape[1]
    x1, y1, x2, y2 = example.targets.boxes.unbind(1)
    boxes = torch.stack((width - x2, y1, width - x1, y2), dim=1)
    targets = replace(example.targets, boxes=boxes)
    return TrainingExample(np.ascontiguousarray(example.image[:, ::-1]), targets)


def collate(examples: Sequence[TrainingExample], pad_divisor: int) -> TrainingBatch:
    """Pad images and masks with zeros to the largest height and width, rounded up to the divisor."""
    sizes = np.array([example.image.shape[:2] for example in examples], dtype=np.int64)  # (B, 2)
    height, width = (int(side) for side in -(-sizes.max(axis=0) // pad_divisor) * pad_divisor)
    images = torch.zeros((len(examples), 3, height, width), dtype=torch.uint8)
    for canvas, example, (h, w) in zip(images, examples, sizes.tolist(), strict=True):
        canvas[:, :h, :w] = torch.from_numpy(example.image).permute(2, 0, 1)
    targets = tuple(_padded(example.targets, height, width) for example in examples)
    return TrainingBatch(images, torch.from_numpy(sizes), targets)


def _padded(targets: ImageTargets, height: int, width: int) -> ImageTargets:
    masks = targets.masks.new_zeros((len(targets.masks), height, width))
    masks[:, : targets.masks.shape[1], : targets.masks.shape[2]] = targets.masks
    return ImageTargets(targets.boxes, targets.labels, masks)
