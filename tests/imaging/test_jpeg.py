"""JPEGs that are decoded without Pillow have Pillow's pixels; what cannot be is left to Pillow."""

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps, PngImagePlugin

from condinst_deploy.errors import ImageError
from condinst_deploy.imaging.decode import jpeg_from, rgb_from, rgb_from_bytes
from condinst_deploy.imaging.encoded_image import EncodedImage
from tests.support.models import IMAGES, noise_image

SIZES = [(1, 1), (8, 8), (17, 33), (97, 131)]
KINDS: dict[str, dict[str, Any]] = {
    "4:2:0": {"subsampling": "4:2:0"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4"},
    "progressive": {"progressive": True},
    "low quality": {"quality": 5},
    "best quality": {"quality": 100},
    "optimised": {"optimize": True},
    "restart markers": {"restart_marker_blocks": 3},
    "stored as RGB": {"keep_rgb": True},
}


def jpeg(size: tuple[int, int], mode: str = "RGB", **options: Any) -> bytes:
    stream = BytesIO()
    Image.fromarray(noise_image(5, *size)).convert(mode).save(stream, format="JPEG", **options)
    return stream.getvalue()


def by_pillow(content: bytes) -> np.ndarray[Any, Any]:
    with Image.open(BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Files that were decoded without Pillow."""
    contents: list[bytes] = []
    decode: Callable[..., Any] = simplejpeg.decode_jpeg

    def watched(data: bytes, **options: Any) -> Any:
        contents.append(data)
        return decode(data, **options)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", watched)
    return contents


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_pillows(kind: str, size: tuple[int, int], tmp_path: Path, decoded: list[bytes]) -> None:
    path, content = tmp_path / "x.jpg", jpeg(size, **KINDS[kind])
    path.write_bytes(content)
    assert np.array_equal(rgb_from(path), by_pillow(content))
    assert decoded == [content]


def test_pixels_of_a_photograph_are_pillows(tmp_path: Path, decoded: list[bytes]) -> None:
    path = tmp_path / "x.jpg"
    Image.open(IMAGES / "coffee.png").convert("RGB").save(path, quality=90)
    assert np.array_equal(rgb_from(path), by_pillow(path.read_bytes()))
    assert len(decoded) == 1


def test_first_image_of_a_camera_file_of_several_is_pillows(tmp_path: Path, decoded: list[bytes]) -> None:
    first, second = (Image.fromarray(noise_image(seed, 32, 48)) for seed in (0, 1))
    first.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[second])
    assert np.array_equal(rgb_from(tmp_path / "x.jpg"), by_pillow((tmp_path / "x.jpg").read_bytes()))
    assert len(decoded) == 1


@pytest.mark.parametrize("orientation", range(10))
def test_pixels_of_a_turned_photograph_are_pillows(orientation: int, tmp_path: Path, decoded: list[bytes]) -> None:
    path, exif = tmp_path / "x.jpg", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise_image(5, 17, 24)).save(path, exif=exif)
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    found = rgb_from(path)
    assert np.array_equal(found, np.asarray(upright))
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert len(decoded) == 1
    # a decoder on a GPU knows no EXIF
    assert (jpeg_from(path) is None) is (orientation in range(2, 9))


def png(path: Path) -> None:
    Image.fromarray(noise_image(5, 16, 24)).save(path, format="PNG")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(jpeg((16, 24), "L")),
        lambda path: path.write_bytes(jpeg((16, 24), "CMYK")),
        png,
    ],
    ids=["grey", "CMYK", "no JPEG at all"],
)
def test_what_takes_more_than_a_decoder_is_left_to_pillow(
    write: Callable[[Path], Any], tmp_path: Path, decoded: list[bytes]
) -> None:
    write(tmp_path / "x.jpg")
    assert jpeg_from(tmp_path / "x.jpg") is None
    assert rgb_from(tmp_path / "x.jpg").shape[2] == 3
    assert decoded == []


def test_a_png_is_not_decoded_to_learn_that_it_is_no_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png(tmp_path / "x.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("it was decoded"))
    assert jpeg_from(tmp_path / "x.png") is None


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_a_damaged_file_is_what_pillow_makes_of_it(at: float, tmp_path: Path) -> None:
    content = bytearray(jpeg((97, 131)))
    place = int(len(content) * at)
    content[place : place + 12] = bytes(range(12))
    (tmp_path / "x.jpg").write_bytes(content)
    assert np.array_equal(rgb_from(tmp_path / "x.jpg"), by_pillow(bytes(content)))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_file_of_very_many_scans_is_refused(mode: str) -> None:
    buffer = BytesIO()
    Image.fromarray(noise_image(0, 48, 64)).convert(mode).save(buffer, "JPEG", progressive=True)
    whole = buffer.getvalue()
    scans = whole[whole.index(b"\xff\xda") : -2]
    repeated = whole[:-2] + scans * 200 + whole[-2:]
    assert rgb_from_bytes(whole).shape == (48, 64, 3)
    with pytest.raises(ImageError, match="it is a JPEG of more than 100 scans"):
        rgb_from_bytes(repeated)
    with pytest.raises(ImageError, match="it is a JPEG of more than 100 scans"):
        jpeg_from(EncodedImage("x", repeated))


def test_markers_outside_the_image_are_no_scans() -> None:
    film = b"\xff\xda" * 200  # phones write one behind the image, and previews before it
    exif = Image.Exif()
    exif[0x927C] = film
    content = jpeg((48, 64), exif=exif.tobytes()) + film
    assert content.count(film) == 2
    assert np.array_equal(rgb_from_bytes(content), by_pillow(content))


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(jpeg((97, 131))[:-300])
    with pytest.raises(ImageError, match=r"x\.jpg cannot be decoded .*truncated"):
        rgb_from(tmp_path / "x.jpg")


def test_threads_decode_at_once_and_leave_the_filters_of_warnings_alone(tmp_path: Path) -> None:
    contents = [jpeg((64, 90), quality=quality) for quality in range(20, 84)]
    for i, content in enumerate(contents):
        (tmp_path / f"{i}.jpg").write_bytes(content)
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        images = list(pool.map(rgb_from, [tmp_path / f"{i}.jpg" for i in range(len(contents))]))
    assert list(warnings.filters) == before
    for image, content in zip(images, contents, strict=True):
        assert np.array_equal(image, by_pillow(content))
