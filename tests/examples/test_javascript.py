"""The decoder in JavaScript: its masks are ours, pixel by pixel."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from condinst_deploy import Predictor
from condinst_engines.inspection import inspect_file
from tests.examples.conftest import ROOT

FOLDER = ROOT / "examples" / "javascript"
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(NODE is None, reason="node is not installed on this machine"),
    pytest.mark.skipif(
        not (FOLDER / "node_modules" / "onnxruntime-node").is_dir(),
        reason="onnxruntime-node is not installed: make examples-node",
    ),
]


def decoded(model: Path, image: npt.NDArray[np.uint8], folder: Path) -> list[dict[str, Any]]:
    """Return the detections of `decode.mjs` in an image."""
    (folder / "manifest.json").write_text(json.dumps(inspect_file(model)))
    Image.fromarray(image).save(folder / "image.ppm")
    command = [str(NODE), str(FOLDER / "decode.mjs"), str(model), "manifest.json", "image.ppm"]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found: list[dict[str, Any]] = json.loads(run.stdout)
    return found


def dense(counts: list[int], height: int, width: int) -> npt.NDArray[np.bool_]:
    """COCO's uncompressed run lengths as pixels."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T


@pytest.mark.parametrize("size", [(192, 192), (640, 427), (131, 192)])
def test_masks_are_ours(size: tuple[int, int], shapes_onnx: Path, shapes_images: list[Path], tmp_path: Path) -> None:
    with Image.open(shapes_images[1]) as file:
        image = np.asarray(file.convert("RGB").resize(size))
    with Predictor(shapes_onnx, device="cpu") as predictor:
        (ours,) = predictor([image])
    theirs = decoded(shapes_onnx, image, tmp_path)
    assert [one["name"] for one in theirs] == ours.names
    assert len(ours) > 0
    np.testing.assert_allclose(np.array([one["score"] for one in theirs]), ours.scores, atol=1e-6)
    np.testing.assert_allclose(np.array([one["box"] for one in theirs]), ours.boxes, atol=1e-3)
    for i, one in enumerate(theirs):
        assert one["segmentation"]["size"] == list(ours.masks.size)
        assert np.array_equal(dense(one["segmentation"]["counts"], *ours.masks.size), np.asarray(ours.masks[i])[0]), i
