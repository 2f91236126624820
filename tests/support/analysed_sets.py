"""Small COCO-format training sets, sound but for what a test adds, and the reports of them."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from condinst_deploy.contract import Preprocessing
from condinst_deploy.data.analysis import analyse
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.data.data_report import DataReport

WIDTH, HEIGHT = 200, 160
PREPROCESSING = Preprocessing(short_side=160, long_side=320)


def polygon(x: float, y: float, width: float, height: float) -> list[float]:
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def annotation(number: int, box: tuple[float, float, float, float], image: int = 1, **changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = {"id": number, "image_id": image, "category_id": 1, "iscrowd": 0}
    whole |= {"bbox": list(box), "area": box[2] * box[3], "segmentation": [polygon(*box)]}
    return {key: value for key, value in (whole | changes).items() if value is not ...}


def image(number: int, **changes: Any) -> dict[str, Any]:
    return {"id": number, "file_name": f"{number}.jpg", "width": WIDTH, "height": HEIGHT} | changes


SOUND = [annotation(n, (10.0 * n, 8.0 * n, 20.0 + 9 * n, 30.0 + 7 * n), image=1 + n % 2) for n in range(1, 8)]


def report_of(folder: Path, *annotations: dict[str, Any], images: list[dict[str, Any]] | None = None) -> DataReport:
    """The report of the sound objects and others."""
    images = [image(1), image(2)] if images is None else images
    for entry in images:
        path = folder / entry["file_name"]
        if not path.exists():
            Image.new("RGB", (WIDTH, HEIGHT), (entry["id"] % 256, 99, 99)).save(path)  # none is another's copy
    path = folder / "set.json"
    categories = [{"id": 1, "name": "bee"}, {"id": 2, "name": "ant"}]
    other = annotation(100, (5, 5, 30, 40), category_id=2)
    content = {"images": images, "annotations": [*SOUND, other, *annotations], "categories": categories}
    path.write_text(json.dumps(content))
    return analyse(CocoDataset(path, folder, training=True), PREPROCESSING, (128, 160))


BIG = (40.0, 30.0, 60.0, 50.0)
