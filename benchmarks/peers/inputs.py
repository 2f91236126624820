"""Inputs of all sides: one seeded model in each side's format, and the same images."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from PIL import Image

from tests.support.exports import save_int8, save_r50
from tests.support.models import IMAGES

SEED = 0

CROPS = {"coffee": (600, 360), "astronaut": (512, 308)}
"""Width and height that are cut from the middle of each photograph: the network then gets 800x1344."""

ENLARGED = (1920, 1152)
"""A third image is the first at this size."""

NATIVE, LARGE = "800x1344", "x".join(map(str, ENLARGED))
"""Kinds of images: those that are about as large as the network's input, and the enlarged one."""


class Inputs(NamedTuple):
    """Files in a folder that goes away with the run."""

    checkpoint: Path  # as mmdetection writes it
    exported: Path  # this toolkit's file
    int8: Path  # and the INT8 file for CPUs
    images: dict[str, Path]
    graph: Path  # where mmdeploy's file goes


@contextmanager
def made_inputs() -> Iterator[Inputs]:
    """mmdetection's R-50 with seeded weights, its exported files, and the images."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        pth, exported, int8 = (folder / f"r50.{ending}" for ending in ("pth", "onnx", "int8.onnx"))
        inputs = Inputs(pth, exported, int8, _images(folder), folder / "mmdeploy.onnx")
        save_r50(inputs.checkpoint, inputs.exported, SEED)
        save_int8(inputs.exported, inputs.int8, IMAGES)
        yield inputs


def size_of(image: str) -> str:
    """`NATIVE` or `LARGE`, by an image's name."""
    return LARGE if image.endswith(f" {LARGE}") else NATIVE


def _images(folder: Path) -> dict[str, Path]:
    """PNG files, which every library decodes to the same pixels; by their names and sizes."""
    made = [(name, _cut(IMAGES / f"{name}.png", size)) for name, size in CROPS.items()]
    first, image = made[0]
    made.append((first, image.resize(ENLARGED, Image.Resampling.BICUBIC)))
    paths = {}
    for name, image in made:
        label = f"{name} {image.width}x{image.height}"
        paths[label] = folder / f"{label.replace(' ', '_')}.png"
        image.save(paths[label])
    return paths


def _cut(path: Path, size: tuple[int, int]) -> Image.Image:
    with Image.open(path) as image:
        left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
        return image.convert("RGB").crop((left, top, left + size[0], top + size[1]))
