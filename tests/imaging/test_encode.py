"""Image files that are there whole or not at all."""

import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condinst_deploy.errors import OutputError
from condinst_deploy.imaging.drawing import write_sheet
from condinst_deploy.imaging.encode import write_jpeg, write_overlay, write_png

NOISE = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)


@pytest.fixture
def _short_writes() -> Iterator[None]:
    """Let the system take 1,000 bytes of a file, as a disk that is nearly full takes a part of a block."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_short_writes")
@pytest.mark.parametrize("kind", ["overlay", "jpeg", "png", "sheet"])
def test_a_disk_that_takes_a_part_of_an_image_is_an_error(kind: str, tmp_path: Path) -> None:
    image = Image.fromarray(NOISE)
    writers: dict[str, Callable[[], object]] = {
        "overlay": lambda: write_overlay(tmp_path, "x", image),
        "jpeg": lambda: write_jpeg(tmp_path / "x.jpg", image),
        "png": lambda: write_png(tmp_path / "x.png", NOISE),
        "sheet": lambda: write_sheet([image], tmp_path / "x.jpg"),
    }
    with pytest.raises(OutputError, match=r"cannot be written \(File too large\)"):
        writers[kind]()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_short_writes")
def test_curves_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    from condinst_deploy.training.history import draw_curves

    with pytest.raises(OutputError, match=r"cannot be written \(File too large\)"):
        draw_curves([{"iteration": 1, "loss/total": 1.0}], tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []
