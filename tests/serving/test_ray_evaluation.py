"""`condinst-eval --ray`: the numbers of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from condinst_deploy.runtime.predictor import Predictor
from tests.support.models import noise_image

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("one_thread")]

SIZES = [(64, 64), (48, 80), (100, 60)]


def write_data_set(folder: Path, model: Path) -> tuple[Path, Path]:
    """Images of several sizes, whose ground truth is part of what the model finds, moved by a pixel."""
    images = folder / "images"
    images.mkdir()
    content: dict[str, Any] = {"images": [], "annotations": []}
    with Predictor(model, device="cpu") as predictor:
        for number in range(12):
            height, width = SIZES[number % len(SIZES)]
            path = images / f"{number}.png"
            Image.fromarray(noise_image(number, height, width)).save(path)
            (found,) = predictor(path)
            image = {"id": 10 + number, "file_name": path.name, "height": height, "width": width}
            content["images"].append(image)
            for entry, mask in zip(found.to_coco(10 + number), np.asarray(found.masks), strict=True):
                if entry["score"] < np.median(found.scores) or not mask.any():
                    continue
                ys, xs = np.nonzero(np.roll(mask, 1, axis=1))
                x, y = int(xs.min()), int(ys.min())
                w, h = int(xs.max()) - x + 1, int(ys.max()) - y + 1
                polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
                extra = {"id": len(content["annotations"]) + 1, "iscrowd": 0, "area": w * h}
                box = {"bbox": [x, y, w, h], "segmentation": [polygon], "image_id": 10 + number}
                content["annotations"].append({**extra, **box, "category_id": entry["category_id"]})
        ids = predictor.manifest.category_ids
        content["categories"] = [{"id": i, "name": n} for i, n in zip(ids, predictor.class_names, strict=True)]
    (folder / "truth.json").write_text(json.dumps(content))
    return folder / "truth.json", images


def evaluated(annotations: Path, images: Path, model: Path, out: Path, *more: str) -> dict[str, Any]:
    command = [sys.executable, "-c", "from condinst_deploy.cli.evaluate import main; main()"]
    arguments = ["--annotations", annotations, "--images", images, "--model", model, "--device", "cpu", "--out", out]
    done = subprocess.run(
        [*command, *map(str, arguments), "--json", *more],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    metrics: dict[str, Any] = json.loads(done.stdout)
    return metrics


def numbers(metrics: Any) -> list[float]:
    """All AP and AR of an evaluation, in order."""
    (side,) = metrics["sides"]
    return [value for kind in ("box", "mask") for value in side[kind].values() if value is not None]


def test_ray_gives_the_numbers_of_one_process(small_onnx: Path, tmp_path: Path) -> None:
    annotations, images = write_data_set(tmp_path, small_onnx)
    one = evaluated(annotations, images, small_onnx, tmp_path / "one")
    two = evaluated(annotations, images, small_onnx, tmp_path / "two", "--ray-workers", "2")
    assert len(numbers(one)) >= 12
    assert max(numbers(one)) > 1
    np.testing.assert_allclose(numbers(two), numbers(one), atol=1e-9)
    results = [json.loads((tmp_path / name / "small.onnx.results.json").read_text()) for name in ("one", "two")]
    assert results[0] == results[1]
    assert len(results[0]) >= 20
