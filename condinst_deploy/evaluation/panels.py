"""Images in which two sides differ: each side's masks, and the pixels that only one of them has."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from condinst_deploy.contract import DRAWN_ABOVE
from condinst_deploy.evaluation.agreement import Instances, instances_from_coco, matched_pairs
from condinst_deploy.evaluation.coco_metrics import Entry
from condinst_deploy.evaluation.evaluator import Difference
from condinst_deploy.evaluation.ground_truth import GroundTruth
from condinst_deploy.imaging.decode import RGBArray, rgb_from
from condinst_deploy.imaging.drawing import overlay
from condinst_deploy.masks import BoolArray, Masks

SIDE = 480
"""Longest side of a drawn image, in pixels: a report of three comparisons of photographs has about 5 MB. Smaller
images are enlarged by the whole factor that comes closest, so that their pixels are seen and labels do not hide them;
with those of 320 pixels, which are drawn at 640, it has about 7 MB."""

QUALITY = 82
ONLY_REFERENCE, ONLY_OTHER = (230, 57, 70), (0, 150, 255)
"""Colours of pixels that one side alone has."""

MOST_DRAWN = 30
"""Most instances that are drawn for a side; more outlines would hide the image."""


@dataclass(frozen=True)
class Panel:
    """One image three times, as JPEG data URIs."""

    title: str
    caption: str
    reference: str
    other: str
    difference: str


def panel_from(difference: Difference, ground_truth: GroundTruth) -> Panel:
    """Draw what both sides found in an image; a class has one colour.

    Detections that score above 0.3 on either side are drawn, or all of them if none does.

    Raises:
        DataError: the image has another size than annotated.
        ImageError: it cannot be read.
    """
    path = ground_truth.paths[ground_truth.image_ids.index(difference.image_id)]
    image = rgb_from(path)
    size = image.shape[0], image.shape[1]
    ground_truth.check_size(str(path), size, difference.image_id)
    sides = _best_first(difference.reference), _best_first(difference.other)
    pairs = matched_pairs(*sides)
    shown = _shown(sides, pairs)
    drawn = [_drawn(image, side, which, ground_truth) for side, which in zip(sides, shown, strict=True)]
    left, right = _only_on_one_side(sides, pairs, shown, size)
    lone = [len(side.scores) - len(pairs) for side in sides]
    return Panel(
        title=f"{path.name} (id {difference.image_id})",
        caption=f"{len(pairs)} matched, {lone[0]} only in the reference, {lone[1]} only in the other;"
        f" {np.count_nonzero(left)} and {np.count_nonzero(right)} pixels on one side alone",
        reference=_data_uri(drawn[0]),
        other=_data_uri(drawn[1]),
        difference=_data_uri(_resized(_tinted(image, left, right))),
    )


Sides = tuple[Instances, Instances]
Chosen = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Indices into each side."""


def _best_first(entries: Sequence[Entry]) -> Instances:
    return instances_from_coco(sorted(entries, key=lambda entry: -entry["score"]))


def _shown(sides: Sides, pairs: npt.NDArray[np.int64]) -> Chosen:
    left, right = (side.scores > DRAWN_ABOVE for side in sides)
    either = left[pairs[:, 0]] | right[pairs[:, 1]]
    left[pairs[:, 0]] = right[pairs[:, 1]] = either
    if not left.any() and not right.any():
        left[:], right[:] = True, True
    return np.flatnonzero(left)[:MOST_DRAWN], np.flatnonzero(right)[:MOST_DRAWN]


def _drawn(image: RGBArray, side: Instances, which: npt.NDArray[np.int64], ground_truth: GroundTruth) -> Image.Image:
    labels = [ground_truth.category_ids.index(int(side.labels[i])) for i in which]
    captions = [
        f"{ground_truth.class_names[label]} {side.scores[i]:.2f}" for i, label in zip(which, labels, strict=True)
    ]
    masks = _masks(side, which, (image.shape[0], image.shape[1]))
    boxes = side.boxes[which].astype(np.float32)
    return overlay(image, boxes, captions, masks, labels, _drawn_side(max(image.shape[:2]))).image


def _masks(side: Instances, which: Sequence[int] | npt.NDArray[np.int64], size: tuple[int, int]) -> Masks:
    """Masks of some instances; empty ones where the results have boxes alone."""
    if side.rles is None:
        return Masks(size, (np.zeros(0, dtype=np.int64),) * len(which))
    return Masks.from_rle([side.rles[i] for i in which], size)


def _only_on_one_side(
    sides: Sides, pairs: npt.NDArray[np.int64], shown: Chosen, size: tuple[int, int]
) -> tuple[BoolArray, BoolArray]:
    """Pixels `(H, W)` that an instance has on one side and its partner, if it has one, has not on the other."""
    only = np.zeros(size, dtype=np.bool_), np.zeros(size, dtype=np.bool_)
    partners = dict(pairs.tolist()), {j: i for i, j in pairs.tolist()}
    for this in (0, 1):
        for index in shown[this].tolist():
            own = np.asarray(_masks(sides[this], [index], size))[0]
            partner = partners[this].get(index)
            if partner is not None:
                own &= ~np.asarray(_masks(sides[1 - this], [partner], size))[0]
            only[this][own] = True
    return only


def _tinted(image: RGBArray, left: BoolArray, right: BoolArray) -> Image.Image:
    """The image in pale grey with the differing pixels in colour; thin lines survive the shrinking."""
    grey = Image.fromarray(image).convert("L")
    pale = (np.asarray(grey, dtype=np.float32) * 0.5 + 110).astype(np.uint8)
    pixels = np.repeat(pale[..., None], 3, axis=2)
    reach = max(1, round(max(image.shape[:2]) / SIDE))
    for where, colour in ((left, ONLY_REFERENCE), (right, ONLY_OTHER)):
        pixels[_grown(where, reach)] = colour
    return Image.fromarray(pixels)


def _grown(where: BoolArray, size: int) -> BoolArray:
    """Every pixel widened to a square of `size`, so that one of many pixels is seen after shrinking."""
    grown = where.copy()
    for _ in range(size - 1):
        grown[1:] |= grown[:-1].copy()
        grown[:, 1:] |= grown[:, :-1].copy()
    return grown


def _drawn_side(longest: int) -> int:
    """Return how long the longest side is drawn, more than two thirds of `SIDE`; enlarged pixels have one size."""
    return SIDE if longest > SIDE else round(SIDE / longest) * longest


def _resized(image: Image.Image) -> Image.Image:
    """The image of the size that overlays of it have."""
    scale = _drawn_side(max(image.size)) / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    method = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    return image.resize((width, height), method)


def _data_uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
