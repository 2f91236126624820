"""Training targets: which points learn which instance (the rules of both reference implementations)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from condinst_deploy.model.config import STRIDES
from condinst_deploy.model.head import level_points

REGRESS_RANGES = ((-1.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, 1e8))
"""Largest distance to a side that P3..P7 learn, in network pixels, both ends included."""

CENTER_RADIUS = 1.5
"""Half the side of the square around a mask's centre of mass in which points are positive, in strides."""


@dataclass(frozen=True, eq=False)
class ImageTargets:
    """Ground truth of one image, in network pixels of the padded batch."""

    boxes: Tensor  # (n, 4) float32 xyxy
    labels: Tensor  # (n,) int64
    masks: Tensor  # (n, H, W) bool

    def to(self, device: torch.device) -> "ImageTargets":
        """Return a copy on another device; copies from pinned memory do not wait."""
        boxes, labels, masks = (x.to(device, non_blocking=True) for x in (self.boxes, self.labels, self.masks))
        return ImageTargets(boxes, labels, masks)

    def masks_at(self, stride: int) -> Tensor:
        """Return the masks at the middle pixel of every cell of a stride: `(n, H/stride, W/stride)` bool."""
        return self.masks[:, stride // 2 :: stride, stride // 2 :: stride]


class Locations(NamedTuple):
    """All points of all levels, P3 first."""

    points: Tensor  # (L, 2) x, y in network pixels
    strides: Tensor  # (L,)
    ranges: Tensor  # (L, 2)


class Assignment(NamedTuple):
    """Training targets of the positive points of one image."""

    locations: Tensor  # (p,) int64 into the L points, rising
    instances: Tensor  # (p,) int64 into the image's ground truth
    distances: Tensor  # (p, 4) left, top, right, bottom, in strides


def locations_at(height: int, width: int, device: torch.device) -> Locations:
    """Return the points of the head's outputs for padded images of a size.

    Sizes are multiples of 32, which P6 and P7 halve with rounding up.
    """
    sizes = [(height // stride, width // stride) for stride in STRIDES[:3]]
    for _ in STRIDES[3:]:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    points, strides, ranges = [], [], []
    for (height, width), stride, limits in zip(sizes, STRIDES, REGRESS_RANGES, strict=True):
        own = level_points(height, width, stride, device)
        points.append(own)
        strides.append(own.new_full((len(own),), stride))
        ranges.append(own.new_tensor(limits).expand(len(own), 2))
    return Locations(torch.cat(points), torch.cat(strides), torch.cat(ranges))


def assign(locations: Locations, targets: ImageTargets) -> Assignment:
    """Positive points: inside the square around a mask's centre of mass, clipped to its box, and in range.

    A point that several instances claim learns the one with the smallest box, the first of equals.
    """
    device = locations.points.device
    if len(targets.boxes) == 0:
        none = torch.zeros(0, dtype=torch.int64, device=device)
        return Assignment(none, none, locations.points.new_zeros((0, 4)))
    x, y = locations.points[:, :1], locations.points[:, 1:]  # (L, 1)
    distances = _distances(x, y, targets.boxes)  # (L, n, 4)
    centre_x, centre_y = centres_of_mass(targets.masks)
    reach = (locations.strides * CENTER_RADIUS)[:, None]  # (L, 1)
    x1, y1, x2, y2 = targets.boxes.unbind(1)
    square = torch.stack(
        (
            (centre_x - reach).maximum(x1),
            (centre_y - reach).maximum(y1),
            (centre_x + reach).minimum(x2),
            (centre_y + reach).minimum(y2),
        ),
        dim=2,
    )  # (L, n, 4)
    inside = _distances(x, y, square).amin(dim=2) > 0
    largest = distances.amax(dim=2)
    in_range = (largest >= locations.ranges[:, :1]) & (largest <= locations.ranges[:, 1:])
    areas = (x2 - x1) * (y2 - y1)
    claims = torch.where(inside & in_range, areas, torch.inf)  # (L, n)
    smallest, instance = claims.min(dim=1)
    positive = torch.nonzero(smallest.isfinite()).squeeze(1)
    instance = instance[positive]
    return Assignment(positive, instance, distances[positive, instance] / locations.strides[positive, None])


def centres_of_mass(masks: Tensor) -> tuple[Tensor, Tensor]:
    """Mean x and y of each mask's pixels: `(n, H, W)` bool -> `(n,)` and `(n,)` float32."""
    height, width = masks.shape[1:]
    xs = torch.arange(width, dtype=torch.float32, device=masks.device)
    ys = torch.arange(height, dtype=torch.float32, device=masks.device)
    count = masks.sum(dim=(1, 2)).clamp(min=1e-6)
    return (masks * xs).sum(dim=(1, 2)) / count, (masks * ys[:, None]).sum(dim=(1, 2)) / count


def _distances(x: Tensor, y: Tensor, boxes: Tensor) -> Tensor:
    """Return distances `(L, n, 4)` from points `(L, 1)` to sides of boxes `(n, 4)` or `(L, n, 4)`; negative outside."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack((x - x1, y - y1, x2 - x, y2 - y), dim=2)
