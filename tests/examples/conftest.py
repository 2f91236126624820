"""The model that ships, exported, and generated images for the examples."""

from pathlib import Path

import pytest

from condinst_deploy.data.shapes_dataset import ShapesConfig, generate_shapes
from tests.support.exports import exported

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shapes_model() -> Path:
    """The model that ships."""
    return ROOT / "demo" / "shapes_slim.pth"


@pytest.fixture(scope="session")
def shapes_onnx(shapes_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same exported with dynamic shapes."""
    return exported(shapes_model, tmp_path_factory.mktemp("shapes") / "shapes_slim.onnx")


@pytest.fixture(scope="session")
def shapes_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Generated images of 192x192 that the model was not trained on."""
    folder = tmp_path_factory.mktemp("shapes_images")
    generate_shapes(folder, "val", 4, ShapesConfig(val_seed=7))
    return sorted((folder / "val").glob("*.png"))
