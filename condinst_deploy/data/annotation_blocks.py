"""Ordinary annotations of a COCO file, checked many at once; anything else is left to the checks one by one."""

import math
import sys
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from condinst_deploy.data.annotation_arrays import Block

BLOCK = 20_000
"""Annotations that are checked together: some 20 MB."""

FARTHEST = 10
"""Largest distance of a polygon from its image, in longer sides of the image; rasterising needs memory for it."""

FARTHEST_BOX = 1e9
"""Largest number of a box, in pixels."""

MOST_LENGTH, LENGTH_PER_SIDE = 4_000_000, 256
"""Length of an object's outline, in pixels: at most so many; and at most so many times height + width, or two for each
pixel of the image. pycocotools takes about 80 bytes for each. A comb as fine as the pixels has one for each."""

CLOSE = 0.999
"""Sums in another order differ in their last bits: values this close to the limit are checked one by one."""

NUMBERS = {int, float}
"""Types of JSON's numbers; true and false are none."""

NOT_IGNORED = (0, None)
"""Values of `ignore` of an ordinary object; 0.0 and false are equal to the first."""

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


class Known(NamedTuple):
    """The images and classes that annotations name."""

    rows: dict[int, int]  # image id -> row
    sizes: npt.NDArray[np.int64]  # (images, 2) height, width
    labels: dict[int, int]  # category id -> label


def most_length(heights: npt.ArrayLike, widths: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Longest outline of an object that is accepted in images of these sizes, in pixels."""
    heights, widths = np.asarray(heights), np.asarray(widths)
    most = np.maximum(LENGTH_PER_SIDE * (heights + widths), 2 * heights * widths)
    return np.asarray(np.minimum(MOST_LENGTH, most), dtype=np.int64)


def block_of(annotations: Sequence[dict[str, Any]], first: int, known: Known) -> tuple[Block, list[int]]:
    """The ordinary objects among annotations, and the indices of all other annotations.

    An ordinary object has polygons with area, is inside its image, and is no crowd. Nothing is wrong with it.

    Args:
        annotations: with `id`s that are whole numbers.
        first: number of the first annotation in the file.
        known: what they may name.
    """
    found = [i for i, annotation in enumerate(annotations) if _seems_plain(annotation, known)]
    numbers, lengths, parts, plain = array("d"), array("q"), [], []
    for i in found:
        segmentation, before = annotations[i]["segmentation"], len(numbers)
        try:
            for part in segmentation:
                numbers.extend(part)
        except (TypeError, OverflowError):
            del numbers[before:]
            continue
        lengths.extend(map(len, segmentation))
        parts.append(len(segmentation))
        plain.append(i)
    block = _block([annotations[i] for i in plain], parts, lengths, numbers, known)
    block = block._replace(places=np.array(plain, dtype=np.int64) + first)
    sound = _are_sound(block, known)
    if not sound.all():
        block = _kept(block, sound)
    ordinary = set((block.places - first).tolist())
    return block, [i for i in range(len(annotations)) if i not in ordinary]


def _seems_plain(annotation: dict[str, Any], known: Known) -> bool:
    """Return whether types and names are those of an ordinary object; numbers are checked later."""
    get = annotation.get
    parts, box, area = get("segmentation"), get("bbox"), get("area", 1.0)
    image, category, crowd = get("image_id"), get("category_id"), get("iscrowd", 0)
    return (
        type(parts) is list
        and type(box) is list
        and type(image) is int
        and type(category) is int
        and type(crowd) is int
        and type(area) in NUMBERS
        and crowd == 0
        and get("ignore", 0) in NOT_IGNORED
        and 0 < area <= sys.float_info.max  # a whole number can be larger
        and len(box) == 4
        and NUMBERS.issuperset(map(type, box))
        and max(map(abs, box)) <= FARTHEST_BOX
        and image in known.rows
        and category in known.labels
        and len(parts) > 0
        and all(type(part) is list and len(part) >= 6 and len(part) % 2 == 0 for part in parts)
    )


def _block(
    annotations: Sequence[dict[str, Any]], parts: list[int], lengths: "array[int]", numbers: "array[float]",
    known: Known,
) -> Block:  # fmt: skip
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return Block(
        places=np.zeros(0, dtype=np.int64),
        images=np.array([known.rows[annotation["image_id"]] for annotation in annotations], dtype=np.int64),
        labels=np.array([known.labels[annotation["category_id"]] for annotation in annotations], dtype=np.int64),
        boxes=boxes,
        areas=np.array([annotation.get("area", math.nan) for annotation in annotations], dtype=np.float64),
        ids=[annotation["id"] for annotation in annotations],
        parts=np.array(parts, dtype=np.int64),
        part_lengths=np.array(lengths, dtype=np.int64),
        numbers=np.array(numbers, dtype=np.float64),
    )


def _are_sound(block: Block, known: Known) -> BoolArray:
    """`(n,)`: whether an object is learnable and its polygons can be rasterised."""
    if not len(block.images):
        return np.zeros(0, dtype=np.bool_)
    height, width = known.sizes[block.images].T
    x1, y1, x2, y2 = block.boxes.T
    large = (x2 - x1 >= 1) & (y2 - y1 >= 1)
    inside = (np.minimum(x2, width) > np.maximum(x1, 0)) & (np.minimum(y2, height) > np.maximum(y1, 0))
    part_starts = np.cumsum(block.part_lengths) - block.part_lengths
    first_parts = np.cumsum(block.parts) - block.parts
    farthest = np.maximum.reduceat(np.abs(block.numbers), part_starts[first_parts])
    near = farthest <= FARTHEST * np.maximum(height, width)  # false for NaN, too
    longest = CLOSE * most_length(height, width)
    short = np.add.reduceat(_outlines(block.numbers, part_starts), first_parts) <= longest
    return np.asarray(large & inside & near & short, dtype=np.bool_)


def _outlines(numbers: FloatArray, part_starts: npt.NDArray[np.int64]) -> FloatArray:
    """Length of each polygon's outline, in pixels: the larger of the steps along x and y."""
    corners = numbers.reshape(-1, 2)
    starts = part_starts // 2
    following = np.arange(1, len(corners) + 1)
    following[np.append(starts[1:], len(corners)) - 1] = starts  # the last corner's next is the first
    with np.errstate(invalid="ignore"):  # infinite numbers are refused by another check
        steps = np.abs(corners[following] - corners).max(axis=1)
    return np.asarray(np.add.reduceat(steps, starts))


def _kept(block: Block, kept: BoolArray) -> Block:
    """The objects of a block that are kept."""
    of_parts = np.repeat(kept, block.parts)
    return Block(
        places=block.places[kept],
        images=block.images[kept],
        labels=block.labels[kept],
        boxes=block.boxes[kept],
        areas=block.areas[kept],
        ids=[number for number, keep in zip(block.ids, kept.tolist(), strict=True) if keep],
        parts=block.parts[kept],
        part_lengths=block.part_lengths[of_parts],
        numbers=block.numbers[np.repeat(of_parts, block.part_lengths)],
    )
