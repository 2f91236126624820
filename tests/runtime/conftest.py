"""The slim model in every backend that runs everywhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from condinst_deploy.runtime.predictor import Predictor


@pytest.fixture(scope="module")
def models(slim_checkpoint: Path, slim_onnx: Path) -> dict[str, Path]:
    return {"torch": slim_checkpoint, "onnxruntime": slim_onnx}


@pytest.fixture(scope="module")
def predictors(models: dict[str, Path]) -> Iterator[dict[str, Predictor]]:
    loaded = {name: Predictor(path, device="cpu") for name, path in models.items()}
    yield loaded
    for predictor in loaded.values():
        predictor.close()
