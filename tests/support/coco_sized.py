"""Made-up detections and data sets of COCO's size, the same for the same seed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from condinst_deploy.contract import InstanceDetections
from condinst_deploy.contract.coco_classes import COCO_CLASSES
from condinst_deploy.evaluation.ground_truth import GroundTruth, load_ground_truth
from condinst_deploy.masks import Masks
from tests.support.models import IMAGES as GOLDEN_IMAGES

EACH, CLASSES = 100, 80
HEIGHT, WIDTH = 480, 640

ANNOTATED = 7
"""Objects an image, as many as in val2017."""


def made_up_detections(seed: int) -> InstanceDetections:
    """100 ellipses of 0.1 % to 40 % of the image, in boxes of their own."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    centres = rng.uniform(0.1, 0.9, (EACH, 2)) * (HEIGHT, WIDTH)
    radii = np.exp(rng.uniform(np.log(0.02), np.log(0.36), (EACH, 2))) * (HEIGHT, WIDTH)
    dense = np.stack(
        [
            ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1 + 0.05 * np.sin(columns)
            for (y, x), (a, b) in zip(centres, radii, strict=True)
        ]
    )
    masks = Masks.from_dense(dense)
    windows = np.array(masks.windows)
    corners, sizes = windows[:, 1::-1], windows[:, :1:-1]
    names = tuple(f"class {i}" for i in range(CLASSES))
    return InstanceDetections(
        boxes=np.concatenate((corners, corners + sizes), axis=1).astype(np.float32),
        scores=np.sort(rng.uniform(0.05, 1, EACH).astype(np.float32))[::-1].copy(),
        labels=rng.integers(0, CLASSES, EACH),
        masks=masks,
        class_names=names,
        category_ids=tuple(range(1, CLASSES + 1)),
    )


def made_up_ground_truth(folder: Path, pool: list[InstanceDetections], images: int) -> GroundTruth:
    """A data set in which the first detections of each image are right."""
    ids = range(1, images + 1)
    objects = [found[:ANNOTATED].to_coco(0) for found in pool]
    annotations: list[dict[str, Any]] = []
    for i, image_id in enumerate(ids):
        for entry in objects[i % len(pool)]:
            area = entry["bbox"][2] * entry["bbox"][3]
            annotations.append(entry | {"id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0, "area": area})
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH} for i in ids],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(pool[0].class_names)],
        "annotations": annotations,
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return load_ground_truth(folder / "instances.json", None)


def cut_photographs(folder: Path, count: int) -> Path:
    """640x480 JPEGs cut from two photographs, and an annotation file with a box on each."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(1, count + 1):
        photograph = Image.open(GOLDEN_IMAGES / ("coffee.png", "astronaut.png")[i % 2]).convert("RGB")
        x, y = (int(rng.integers(0, side // 3)) for side in photograph.size)
        window = photograph.crop((x, y, x + 2 * photograph.width // 3, y + 2 * photograph.height // 3))
        window.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).save(folder / "images" / f"{i}.jpg", quality=92)
        images.append({"id": i, "file_name": f"{i}.jpg", "height": HEIGHT, "width": WIDTH})
        box = [100, 100, 200, 150]
        polygon = [100, 100, 300, 100, 300, 250, 100, 250]
        annotations.append(
            {"id": i, "image_id": i, "category_id": 1, "iscrowd": 0, "bbox": box, "area": 30_000}
            | {"segmentation": [polygon]}
        )
    categories = [{"id": i, "name": name} for i, name in COCO_CLASSES.items()]
    path = folder / "instances.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path
