"""Training and inference read the same pixels from a file and resize them in the same way."""

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.data.transforms import collate, resized
from condinst_deploy.runtime.preprocessing.batch import HostWriter
from condinst_deploy.runtime.preprocessing.factory import preparation
from tests.support.images import ALPHA, GREY, RGB

PREPROCESSING = Preprocessing(short_side=64, long_side=112)


def geometry_of(image: Any) -> ImageGeometry:
    return ImageGeometry.of(image.shape[:2], PREPROCESSING)


@dataclass(frozen=True)
class File:
    """An image file of one kind, and the pixels that a viewer shows for it."""

    name: str
    mode: str  # Pillow's mode of the file when it is opened
    image: Callable[[], Image.Image]
    shown: Any = None  # (H, W, 3), or one colour for all pixels; None: nothing is asserted about the values
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return f"{self.mode} {self.name}"


def grey(levels: Any) -> Any:
    return np.repeat(np.asarray(levels)[..., None], 3, axis=2)


def palette(transparency: int | bytes | None = None) -> Callable[[], Image.Image]:
    def image() -> Image.Image:
        quantized = Image.fromarray(RGB).quantize(16)
        if transparency is not None:
            quantized.info["transparency"] = transparency
        return quantized

    return image


def all_clear(mode: str) -> Callable[[], Image.Image]:
    """Dark pixels under an alpha of 0: a viewer shows the white behind them."""
    return lambda: Image.new(mode, (36, 24), (10, 20, 30, 0) if mode == "RGBA" else (10, 0))


SIXTEEN = np.arange(24 * 36, dtype=np.uint16).reshape(24, 36) * 75  # 0..64725, all 8 bits and more
SCALED = grey(np.rint(SIXTEEN / 257))
BITS = GREY > 127
LOSSLESS = (("lossless", True),)

FILES = [
    File("x.png", "1", lambda: Image.fromarray(BITS), grey(BITS * 255)),
    File("x.tif", "1", lambda: Image.fromarray(BITS), grey(BITS * 255)),
    File("x.png", "L", lambda: Image.fromarray(GREY), grey(GREY)),
    File("x.jpg", "L", lambda: Image.fromarray(GREY)),
    File("x.png", "LA", lambda: Image.fromarray(np.dstack([GREY, ALPHA]))),
    File("clear.png", "LA", all_clear("LA"), 255),
    File("x.png", "P", palette()),
    File("x.gif", "P", palette()),
    File("x.bmp", "P", palette()),
    File("clear.png", "P", palette(3)),
    File("clear.gif", "P", palette(3)),
    File("alpha.png", "P", palette(bytes(range(0, 256, 16)))),
    File("x.png", "RGB", lambda: Image.fromarray(RGB), RGB),
    File("x.bmp", "RGB", lambda: Image.fromarray(RGB), RGB),
    File("x.tif", "RGB", lambda: Image.fromarray(RGB), RGB),
    File("x.jp2", "RGB", lambda: Image.fromarray(RGB), RGB),
    File("x.jpg", "RGB", lambda: Image.fromarray(RGB)),
    File("progressive.jpg", "RGB", lambda: Image.fromarray(RGB), options=(("progressive", True),)),
    File("x.webp", "RGB", lambda: Image.fromarray(RGB), RGB, LOSSLESS),
    File("keyed.png", "RGB", lambda: Image.new("RGB", (36, 24), (1, 2, 3)), 255, (("transparency", (1, 2, 3)),)),
    File("x.png", "RGBA", lambda: Image.fromarray(np.dstack([RGB, ALPHA]))),
    File("clear.png", "RGBA", all_clear("RGBA"), 255),
    File("x.webp", "RGBA", lambda: Image.fromarray(np.dstack([RGB, ALPHA])), options=LOSSLESS),
    File("clear.tif", "RGBA", all_clear("RGBA"), 255),
    File("x.tif", "CMYK", lambda: Image.fromarray(RGB).convert("CMYK"), RGB),
    File("x.jpg", "CMYK", lambda: Image.fromarray(RGB).convert("CMYK")),
    File("x.tif", "YCbCr", lambda: Image.fromarray(RGB).convert("YCbCr")),
    File("x.tif", "LAB", lambda: Image.new("LAB", (36, 24), (80, 10, 20))),
    File("x.png", "I;16", lambda: Image.fromarray(SIXTEEN), SCALED),
    File("x.tif", "I;16", lambda: Image.fromarray(SIXTEEN), SCALED),
    File("x.pgm", "I", lambda: Image.fromarray(SIXTEEN), SCALED),
    File("x.tif", "I", lambda: Image.fromarray(SIXTEEN.astype(np.int32)), SCALED),
]


def data_set(path: Path, size: tuple[int, int]) -> CocoDataset:
    """The data set of one image of this size, without objects."""
    content = {
        "images": [{"id": 1, "file_name": path.name, "height": size[0], "width": size[1]}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [],
    }
    annotations = path.with_suffix(".json")
    annotations.write_text(json.dumps(content))
    return CocoDataset(annotations, path.parent, training=False)


def assert_same_pixels(path: Path) -> Any:
    """Compare the decoded image and the network's input of both sides; return the decoded image."""
    inferred = preparation("exact", geometry_of, HostWriter(), "cpu")(path, path.name)
    assert inferred.image is not None
    sample = data_set(path, (inferred.image.shape[0], inferred.image.shape[1]))[0]
    np.testing.assert_array_equal(sample.image, inferred.image)
    batch = collate([resized(sample, PREPROCESSING)], PREPROCESSING.pad_divisor)
    np.testing.assert_array_equal(batch.images.numpy(), inferred.inputs.on_host().images)
    np.testing.assert_array_equal(batch.image_sizes.numpy(), inferred.inputs.on_host().image_sizes)
    return sample.image


@pytest.mark.parametrize("file", FILES, ids=str)
def test_training_and_inference_read_the_same_pixels_of_every_mode(file: File, tmp_path: Path) -> None:
    path = tmp_path / file.name
    file.image().save(path, **dict(file.options))
    with Image.open(path) as opened:
        assert opened.mode == file.mode
    pixels = assert_same_pixels(path)
    if file.shown is not None:
        np.testing.assert_array_equal(pixels, np.broadcast_to(file.shown, (24, 36, 3)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("name", "pixels"), [("x.jpg", RGB), ("x.png", RGB), ("x.tif", RGB), ("x.webp", RGB), ("grey.png", SIXTEEN)]
)
def test_training_and_inference_turn_an_image_in_the_same_way(
    name: str, pixels: Any, orientation: int, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    Image.fromarray(pixels).save(tmp_path / name, exif=exif, **options)
    turned = assert_same_pixels(tmp_path / name)
    assert turned.shape[:2] == ((24, 36) if orientation <= 4 else (36, 24))


def entry(tag: int, kind: int, value: bytes) -> bytes:
    return struct.pack("<HHI4s", tag, kind, 1, value)


OFFSET = 8 + 2 + 2 * 12 + 4
ODD_ENTRIES = {
    "negative ImageLength": (entry(0x0101, 9, struct.pack("<i", -5)), b""),
    "negative ImageWidth": (entry(0x0100, 8, struct.pack("<hH", -5, 0)), b""),
    "negative XResolution": (entry(0x011A, 10, struct.pack("<I", OFFSET)), struct.pack("<ii", -1, 0)),
    "StripOffsets as a ratio": (entry(0x0111, 5, struct.pack("<I", OFFSET)), struct.pack("<II", 1, 2)),
    "XResolution NaN": (entry(0x011A, 12, struct.pack("<I", OFFSET)), struct.pack("<d", float("nan"))),
    "ResolutionUnit as a float": (entry(0x0128, 11, struct.pack("<f", 2.5)), b""),
}


@pytest.mark.parametrize("odd", ODD_ENTRIES)
def test_training_and_inference_read_an_image_with_an_odd_exif_entry(odd: str, tmp_path: Path) -> None:
    odd_entry, values = ODD_ENTRIES[odd]
    turned = entry(0x0112, 3, struct.pack("<HH", 6, 0))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + turned + odd_entry + struct.pack("<I", 0) + values
    Image.fromarray(RGB).save(tmp_path / "x.jpg", exif=exif)
    assert assert_same_pixels(tmp_path / "x.jpg").shape == (36, 24, 3)
