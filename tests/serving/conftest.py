"""A small model and images that the batch tests share."""

from pathlib import Path

import pytest

from tests.support.batch_runs import save_small_model, write_images


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("small") / "small.pth")


@pytest.fixture(scope="session")
def ten_images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten images, of which the sixth is damaged."""
    return write_images(tmp_path_factory.mktemp("ten"), 10, damaged=[5])
