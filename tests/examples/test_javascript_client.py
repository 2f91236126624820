"""The client in JavaScript: it decodes an answer to the masks that the server had."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from condinst_deploy.masks import Masks
from condinst_deploy.serving.protocol import BOXES, IMAGE_SIZE, LABELS, RLE_COUNTS, SCORES
from tests.examples.conftest import ROOT
from tests.support.fake_server import Answer, encoded_answer, fake_server
from tests.support.models import SLIM, manifest_of

SCRIPT = ROOT / "examples" / "javascript" / "ask_server.mjs"
NODE = shutil.which("node")
MANIFEST = manifest_of(SLIM)

pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed on this machine")


def masks(kind: str) -> npt.NDArray[np.bool_]:
    """Dense masks `(n, H, W)`."""
    if kind == "noise":
        return np.random.default_rng(0).random((5, 37, 23)) < 0.5
    if kind == "large":  # a run of a million pixels takes several characters, and the next one is much shorter
        large = np.zeros((2, 1200, 1600), dtype=bool)
        large[0, 3:900, 700:1500] = large[0, 1000, 1000] = large[1, -1, -1] = True
        return large
    if kind == "whole and empty":
        return np.stack([np.ones((7, 9), dtype=bool), np.zeros((7, 9), dtype=bool)])
    return np.zeros((0, 7, 9), dtype=bool)


def outputs_of(dense: npt.NDArray[np.bool_]) -> dict[str, Any]:
    count, *size = dense.shape
    random = np.random.default_rng(1)
    return {
        BOXES: random.random((1, count, 4), dtype=np.float32),
        SCORES: random.random((1, count), dtype=np.float32),
        LABELS: np.arange(count, dtype=np.int32)[None] % len(MANIFEST.class_names),
        IMAGE_SIZE: np.array([size], dtype=np.int32),
        RLE_COUNTS: [rle["counts"] for rle in Masks.from_dense(dense).rle()],
    }


def asked(url: str, image: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(NODE), str(SCRIPT), url, str(image), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def dense_of(counts: list[int], size: list[int]) -> npt.NDArray[np.bool_]:
    """COCO's uncompressed run lengths as pixels."""
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[1], size[0]).T


@pytest.mark.parametrize("kind", ["noise", "large", "whole and empty", "none"])
def test_masks_are_those_of_the_server(kind: str, tmp_path: Path) -> None:
    dense, bodies = masks(kind), list[bytes]()

    def answer(number: int, path: str, body: bytes) -> Answer:
        bodies.append(body)
        return encoded_answer(outputs)

    outputs, image = outputs_of(dense), tmp_path / "image.jpg"
    image.write_bytes(b"an image \x00\xff")
    with fake_server(answer, MANIFEST) as server:
        run = asked(server.url, image, '{"score_threshold":"0.5"}')
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert len(found) == len(dense)
    for i, one in enumerate(found):
        assert one["name"] == MANIFEST.class_names[outputs[LABELS][0, i]]
        assert one["score"] == float(outputs[SCORES][0, i])
        assert one["box"] == outputs[BOXES][0, i].tolist()
        assert one["segmentation"]["size"] == list(dense.shape[1:])
        assert np.array_equal(dense_of(one["segmentation"]["counts"], one["segmentation"]["size"]), dense[i])
    (body,) = bodies
    assert body.endswith((11).to_bytes(4, "little") + image.read_bytes())
    assert json.loads(body[: -4 - 11])["parameters"] == {"score_threshold": "0.5"}


def test_a_refusal_is_the_servers_sentence(tmp_path: Path) -> None:
    refusal = Answer(400, b'{"error":"the image has 0 bytes; expected an encoded image"}')
    (tmp_path / "empty.jpg").touch()
    with fake_server(lambda *_: refusal, MANIFEST) as server:
        run = asked(server.url, tmp_path / "empty.jpg")
    assert run.returncode != 0
    assert "the image has 0 bytes" in run.stderr
