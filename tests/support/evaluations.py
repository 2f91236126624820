"""Runs of `condinst-eval` in this process."""

import json
from pathlib import Path
from typing import Any

from PIL import Image
from typer.testing import CliRunner, Result

from condinst_deploy.cli.evaluate import main
from tests.support import small_coco
from tests.support.models import noise_image

SIZES = ((120, 200), (90, 110))
"""Heights and widths of the images of `data_set`."""


def evaluate(*arguments: str | Path) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def metrics(out: Path = Path("evaluation")) -> Any:
    return json.loads((out / "figures.json").read_text())


def data_set(tmp_path: Path, count: int) -> tuple[Path, Path]:
    """Images of two sizes with the slim model's three classes, in an order that is not the ids'."""
    (tmp_path / "pictures").mkdir()
    images, annotations = [], []
    for i in range(count, 0, -1):
        height, width = SIZES[i % 2]
        Image.fromarray(noise_image(i, height, width)).save(tmp_path / "pictures" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": height, "width": width})
        entry = small_coco.annotation(i, i, 10 + i % 3, (10, 10, 60, 60))
        annotations.append(entry)
    categories = [{"id": 10 + i, "name": f"class {name}"} for i, name in enumerate("abc")]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "val.json").write_text(json.dumps(content))
    return tmp_path / "val.json", tmp_path / "pictures"
