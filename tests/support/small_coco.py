"""A data set in COCO's format that is small enough to be evaluated by hand: ids with gaps, a crowd, all three sizes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

Rectangle = tuple[int, int, int, int]  # x, y, width, height

SIDE = 200
IMAGES = (139, 285, 632)
CATEGORIES = {90: "toothbrush", 1: "person", 13: "stop sign"}
CROWD: Rectangle = (100, 100, 80, 80)


def rle_of(rectangle: Rectangle) -> dict[str, Any]:
    """A filled rectangle as files have it."""
    x, y, width, height = rectangle
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    rle = coco_mask.encode(mask)
    return {"size": [SIDE, SIDE], "counts": rle["counts"].decode()}


def annotation(number: int, image_id: int, category_id: int, box: Rectangle) -> dict[str, Any]:
    x, y, width, height = box
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": list(box),
        "area": width * height,
        "iscrowd": 0,
        "segmentation": [polygon],
    }


def content() -> dict[str, Any]:
    """The annotation file; the last image has nothing."""
    crowd = annotation(11, 139, 1, CROWD) | {"iscrowd": 1, "segmentation": rle_of(CROWD)}
    return {
        "images": [{"id": i, "file_name": f"{i:012d}.png", "height": SIDE, "width": SIDE} for i in IMAGES],
        "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
        "annotations": [
            annotation(10, 139, 1, (10, 10, 20, 20)),  # small: 400
            crowd,
            annotation(12, 139, 13, (40, 40, 50, 50)),  # medium: 2,500
            annotation(13, 285, 13, (50, 50, 100, 100)),  # large: 10,000
            annotation(14, 285, 90, (0, 0, 40, 40)),  # medium: 1,600
        ],
    }


def result(image_id: int, category_id: int, score: float, box: Rectangle, mask: Rectangle) -> dict[str, Any]:
    return {
        "image_id": image_id,
        "category_id": category_id,
        "bbox": [float(value) for value in box],
        "score": score,
        "segmentation": rle_of(mask),
    }


def results() -> list[dict[str, Any]]:
    """Five detections; what becomes of each is worked out in `tests/evaluation/test_coco_metrics.py`."""
    return [
        result(139, 1, 0.95, (150, 10, 40, 40), (150, 10, 25, 25)),
        result(139, 1, 0.9, (10, 10, 20, 20), (10, 10, 20, 20)),
        result(139, 1, 0.8, (120, 120, 30, 30), (120, 120, 30, 30)),
        result(139, 13, 0.7, (40, 40, 50, 41), (40, 40, 50, 31)),
        result(285, 90, 0.6, (0, 0, 40, 40), (0, 0, 40, 23)),
    ]


def written(folder: Path, values: dict[str, Any] | None = None) -> tuple[Path, Path]:
    """The annotation file and the folder of its images."""
    values = content() if values is None else values
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for entry in values["images"]:
        Image.new("RGB", (entry["width"], entry["height"]), "grey").save(folder / "pictures" / entry["file_name"])
    path = folder / "instances.json"
    path.write_text(json.dumps(values))
    return path, folder / "pictures"
