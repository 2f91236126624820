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
    """100 ellipses of 0.1 % to 40 % of the image, in their own boxes."""
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


TRAIN_IMAGES, TRAIN_OBJECTS = 118_000, 860_000
"""As in train2017."""

CORNERS = (8, 41)
"""Of an object's outline, least and most; the file then has train2017's 450 MB."""

OUTLINES = 2_000
"""Different outlines in a file of made-up annotations."""

CROWDS = 100
"""One object in so many is a crowd, with an RLE."""


def made_up_annotations(path: Path, images: int, objects: int, seed: int = 0) -> Path:
    """A COCO-format file of closed outlines in 640x480 images, which are not made."""
    rng = np.random.default_rng(seed)
    outlines = [json.dumps(_outline(rng))[1:-1] for _ in range(OUTLINES)]
    crowd = json.dumps({"counts": [0, HEIGHT * WIDTH], "size": [HEIGHT, WIDTH]})
    crowd = f'"segmentation": {crowd}, "area": {HEIGHT * WIDTH}, "bbox": [0, 0, {WIDTH}, {HEIGHT}]'
    owners = rng.integers(1, images + 1, objects).tolist()
    drawn, categories = (rng.integers(0, n, objects).tolist() for n in (OUTLINES, len(COCO_CLASSES)))
    ids = list(COCO_CLASSES)
    with path.open("w", encoding="utf-8") as stream:
        stream.write('{"info": {"description": "made up"}, "images": [')
        for i in range(1, images + 1):
            # licence, address and date are as long as COCO's
            entry = {"license": 3, "file_name": f"{i:012d}.jpg", "coco_url": f"http://images.test/train/{i:012d}.jpg"}
            entry |= {"height": HEIGHT, "width": WIDTH, "date_captured": "2013-11-14 11:18:45", "id": i}
            stream.write(json.dumps(entry) + (", " if i < images else '], "annotations": ['))
        for i in range(1, objects + 1):
            own, is_crowd = (crowd, 1) if i % CROWDS == 0 else (outlines[drawn[i - 1]], 0)
            stream.write(
                f'{{{own}, "iscrowd": {is_crowd}, "image_id": {owners[i - 1]},'
                f' "category_id": {ids[categories[i - 1]]}, "id": {i}}}' + (", " if i < objects else "]")
            )
        names = [{"supercategory": "thing", "id": i, "name": name} for i, name in COCO_CLASSES.items()]
        stream.write(f', "categories": {json.dumps(names)}}}')
    return path


def _outline(rng: np.random.Generator) -> dict[str, Any]:
    """A polygon with its area and its box."""
    count, radius = int(rng.integers(*CORNERS)), float(np.exp(rng.uniform(np.log(4), np.log(90))))
    angles = 2 * np.pi * np.arange(count) / count
    around = radius * (1 + 0.1 * np.sin(3 * angles))
    centre = rng.uniform(0.2, 0.8, 2) * (WIDTH, HEIGHT)
    points = (np.stack((np.cos(angles), np.sin(angles)), axis=1) * around[:, None] + centre).round(2)
    low, high = points.min(axis=0), points.max(axis=0)
    box = [*low.tolist(), *(high - low).round(2).tolist()]
    return {"segmentation": [points.ravel().tolist()], "area": round(np.pi * radius**2, 4), "bbox": box}
