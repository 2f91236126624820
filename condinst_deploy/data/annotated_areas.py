"""Areas that an annotation file gives its objects, compared with their masks: COCO's size classes go by them."""

import numpy as np
from pycocotools import mask as coco_mask

from condinst_deploy.data.annotation_arrays import Segmentation
from condinst_deploy.data.annotation_checks import merged_rle
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.data.data_report import Finding

FACTOR, PIXELS = 2.0, 16.0
"""An area is said to differ from its mask's by more than this factor, and by more than so many pixels."""

ADVICE = "AP of small, medium and large objects goes by it: write the mask's area, or leave it out"


def area_finding(data: CocoDataset, place: str = "") -> Finding:
    """The objects of a set to evaluate on whose `area` is 0 or less, or far from their mask's.

    Without masks only the former are found.

    Args:
        data: the set.
        place: where the objects are, for example "in the validation set"; "" if a message says it.
    """
    named = [f"annotation {each.annotation_id}: 0 or less" for each in data.left_out if each.reason == "without area"]
    named += [] if data.boxes_only else _far(data)
    return Finding.of("object", f"{place} whose area is not its mask's".strip(), ADVICE, named)


def area_note(data: CocoDataset) -> str:
    """Return what is odd in the areas of a set to evaluate on; "" if nothing is."""
    finding = area_finding(data)
    return f"warning: {finding}" if finding.count else ""


def _far(data: CocoDataset) -> list[str]:
    rows, owners = data.records.owned()
    objects, areas = data.records.objects, data.records.objects.areas[rows]
    named = []
    for row, owner in zip(rows[~np.isnan(areas)].tolist(), owners[~np.isnan(areas)].tolist(), strict=True):
        height, width = data.records.sizes[owner].tolist()
        segmentation, area = objects.segmentation(row, (height, width)), float(objects.areas[row])
        if _differ(area, _quick_area(segmentation)):  # parts can overlap, or leave the image: count the pixels
            pixels = float(coco_mask.area(merged_rle(segmentation, (height, width))))
            if _differ(area, pixels):
                named.append(f"annotation {objects.ids[row]}: {area:,.0f}, its mask {pixels:,.0f} pixels")
    return named


def _differ(area: float, other: float) -> bool:
    low, high = sorted((area, other))
    return high > FACTOR * low and high - low > PIXELS


def _quick_area(segmentation: Segmentation) -> float:
    """Area of an RLE, or the sum of its polygons' areas."""
    if not isinstance(segmentation, tuple):
        return float(coco_mask.area(segmentation))
    area = 0.0
    for part in segmentation:
        x, y = part[::2], part[1::2]
        area += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return area
