"""The HTTP server of examples/serve.py."""

import io
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image

from condinst_deploy import Predictor
from tests.examples.conftest import ROOT

SCRIPT = str(ROOT / "examples" / "serve.py")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def client(shapes_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("MODEL", str(shapes_model))
    with TestClient(runpy.run_path(SCRIPT)["app"]) as client:
        yield client


def test_an_image_gets_coco_entries(client: TestClient, shapes_model: Path, shapes_images: list[Path]) -> None:
    response = client.post("/predict", content=shapes_images[0].read_bytes())
    with Predictor(shapes_model) as predictor:
        (detections,) = predictor(shapes_images[0])
    assert response.status_code == 200
    assert len(detections) > 0
    assert response.json() == detections.to_coco(image_id=0)


def bomb() -> bytes:
    """A small file of an image with more pixels than Pillow decodes."""
    stream = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(stream, format="PNG")
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["text", "truncated", "bomb", "empty"])
def test_what_is_not_an_image_is_refused(kind: str, client: TestClient, shapes_images: list[Path]) -> None:
    body = {"text": b"hello", "truncated": shapes_images[0].read_bytes()[:300], "bomb": bomb(), "empty": b""}[kind]
    response = client.post("/predict", content=body)
    assert response.status_code == 422
    assert "not an image" in response.json()["detail"]


def test_a_large_body_is_refused(client: TestClient) -> None:
    response = client.post("/predict", content=bytes(20_000_001))
    assert response.status_code == 413
    assert "20000000 bytes" in response.json()["detail"]


def test_only_this_machine_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    called: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: called.update(options))
    monkeypatch.setattr(sys, "argv", ["serve.py"])
    monkeypatch.setenv("MODEL", "model.onnx")
    runpy.run_path(SCRIPT, run_name="__main__")
    assert called == {"host": "127.0.0.1", "port": 8000}
