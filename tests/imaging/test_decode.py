"""Image files of every kind against the pixels that they were made from."""

import os
import signal
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from condinst_deploy.imaging.decode import rgb_from, rgb_from_pil
from tests.support.images import (
    ALPHA,
    GREY,
    RGB,
    SIXTEEN_BITS,
    UInt8,
    assert_rgb,
    eight_bits,
    grey_rgb,
    on_white,
)


def palette_image() -> tuple[Image.Image, UInt8, npt.NDArray[np.uint8]]:
    """An image of 16 colours, its indices and its colours."""
    colours = np.random.default_rng(3).integers(0, 256, (16, 3), dtype=np.uint8)
    indices = (np.indices((24, 36)).sum(axis=0) % 16).astype(np.uint8)
    image = Image.frombytes("P", (36, 24), indices.tobytes())
    image.putpalette(colours.tobytes())
    return image, indices, colours


@pytest.mark.parametrize("name", ["x.png", "x.PNG", "x.bmp", "x.ppm", "x.tif", "x.tiff", "x.webp", "x.jp2"])
def test_lossless_files_give_the_pixels_they_were_made_from(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    Image.fromarray(RGB).save(tmp_path / name, **options)
    result = rgb_from(tmp_path / name)
    assert_rgb(result, (24, 36))
    assert result.flags.writeable
    assert np.array_equal(result, RGB)


def test_path_may_be_a_text(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.png")
    assert np.array_equal(rgb_from(str(tmp_path / "x.png")), RGB)


def test_what_a_file_is_does_not_follow_from_its_name(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.jpg", format="PNG")
    assert np.array_equal(rgb_from(tmp_path / "x.jpg"), RGB)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_close_to_the_image(progressive: bool, tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(RGB[:6, :9]).resize((72, 48), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(tmp_path / "x.jpg", quality=95, progressive=progressive)
    result = rgb_from(tmp_path / "x.jpg")
    assert_rgb(result, (48, 72))
    assert np.abs(result.astype(int) - smooth).mean() < 3


@pytest.mark.parametrize("name", ["x.png", "x.pgm", "x.tif", "x.bmp"])
def test_grey_file_is_grey_in_all_three_channels(name: str, tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / name)
    assert np.array_equal(rgb_from(tmp_path / name), grey_rgb(GREY))


def test_grey_jpeg_is_grey_in_all_three_channels(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "x.jpg", quality=95)
    result = rgb_from(tmp_path / "x.jpg")
    assert_rgb(result, (24, 36))
    assert np.ptp(result, axis=2).max() == 0
    assert np.abs(result[..., 0].astype(int) - GREY).mean() < 5


def test_bilevel_file_is_black_and_white(tmp_path: Path) -> None:
    bits = GREY > 128
    Image.fromarray(bits).save(tmp_path / "x.png")
    assert np.array_equal(rgb_from(tmp_path / "x.png"), grey_rgb(bits * 255))


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp"])
def test_transparent_file_is_shown_on_white(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"lossless": True, "exact": True} if name.endswith("webp") else {}
    Image.fromarray(np.dstack([RGB, ALPHA])).save(tmp_path / name, **options)
    result = rgb_from(tmp_path / name)
    assert_rgb(result, (24, 36))
    np.testing.assert_allclose(result, on_white(RGB, ALPHA), atol=1)
    assert (result[:, 0] == 255).all()
    assert np.array_equal(result[:, -1], RGB[:, -1])


def test_transparent_grey_file_is_shown_on_white(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([GREY, ALPHA]), "LA").save(tmp_path / "x.png")
    np.testing.assert_allclose(rgb_from(tmp_path / "x.png"), on_white(grey_rgb(GREY), ALPHA), atol=1)


@pytest.mark.parametrize("name", ["x.png", "x.gif", "x.bmp", "x.tif"])
def test_palette_file_has_its_colours(name: str, tmp_path: Path) -> None:
    image, indices, colours = palette_image()
    image.save(tmp_path / name)
    assert np.array_equal(rgb_from(tmp_path / name), colours[indices])


@pytest.mark.parametrize("name", ["x.png", "x.gif"])
def test_transparent_colour_of_a_palette_is_white(name: str, tmp_path: Path) -> None:
    image, indices, colours = palette_image()
    image.save(tmp_path / name, transparency=5)
    result = rgb_from(tmp_path / name)
    assert (result[indices == 5] == 255).all()
    assert np.array_equal(result[indices != 5], colours[indices[indices != 5]])


def test_half_transparent_colours_of_a_palette_are_shown_on_white(tmp_path: Path) -> None:
    image, indices, colours = palette_image()
    alpha = np.arange(0, 256, 17, dtype=np.uint8)
    image.save(tmp_path / "x.png", transparency=alpha.tobytes())
    np.testing.assert_allclose(rgb_from(tmp_path / "x.png"), on_white(colours[indices], alpha[indices]), atol=1)


def test_colour_key_of_an_rgb_file_is_white(tmp_path: Path) -> None:
    keyed = RGB.copy()
    keyed[3:9, 4:20] = (10, 20, 30)
    Image.fromarray(keyed).save(tmp_path / "x.png", transparency=(10, 20, 30))
    expected = RGB.copy()
    expected[3:9, 4:20] = 255
    assert np.array_equal(rgb_from(tmp_path / "x.png"), expected)


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.pgm"])
def test_16_bits_are_scaled_to_8(name: str, tmp_path: Path) -> None:
    Image.fromarray(SIXTEEN_BITS).save(tmp_path / name)
    result = rgb_from(tmp_path / name)
    assert_rgb(result, (2, 6))
    assert np.array_equal(result, grey_rgb(eight_bits(SIXTEEN_BITS)))
    assert result[0, 0, 0] == 0
    assert result[-1, -1, 0] == 255


def test_big_endian_16_bits_are_scaled_to_8(tmp_path: Path) -> None:
    image = Image.frombytes("I;16B", (6, 2), SIXTEEN_BITS.astype(">u2").tobytes())
    assert np.array_equal(rgb_from(image), grey_rgb(eight_bits(SIXTEEN_BITS)))
    image.save(tmp_path / "x.tif")
    assert np.array_equal(rgb_from(tmp_path / "x.tif"), grey_rgb(eight_bits(SIXTEEN_BITS)))


@pytest.mark.parametrize(("name", "error"), [("x.tif", 0), ("x.jpg", 4)])
def test_cmyk_file_is_close_to_the_rgb_image(name: str, error: float, tmp_path: Path) -> None:
    smooth = np.asarray(Image.fromarray(RGB[:6, :9]).resize((72, 48), Image.Resampling.BICUBIC))
    options: dict[str, Any] = {"quality": 95} if name.endswith("jpg") else {}
    Image.fromarray(smooth).convert("CMYK").save(tmp_path / name, **options)
    with Image.open(tmp_path / name) as stored:
        assert stored.mode == "CMYK"
    result = rgb_from(tmp_path / name)
    assert_rgb(result, (48, 72))
    assert np.abs(result.astype(int) - smooth).mean() <= error


# what a viewer does with the stored pixels, undone
STORED: dict[int, Callable[[UInt8], UInt8]] = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def oriented(orientation: int, upright: UInt8) -> tuple[Image.Image, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))), exif


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.webp"])
def test_rotated_file_is_turned_upright(name: str, orientation: int, tmp_path: Path) -> None:
    image, exif = oriented(orientation, RGB)
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    image.save(tmp_path / name, exif=exif, **options)
    assert np.array_equal(rgb_from(tmp_path / name), RGB)
    with Image.open(tmp_path / name) as opened:
        assert np.array_equal(rgb_from(opened), RGB)


@pytest.mark.parametrize("orientation", STORED)
def test_rotated_jpeg_is_turned_upright(orientation: int, tmp_path: Path) -> None:
    quarters = np.zeros((32, 48, 3), dtype=np.uint8)
    quarters[:16, :24], quarters[:16, 24:], quarters[16:, :24] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    image, exif = oriented(orientation, quarters)
    image.save(tmp_path / "x.jpg", exif=exif, quality=95, subsampling=0)
    np.testing.assert_allclose(rgb_from(tmp_path / "x.jpg"), quarters, atol=6)


def test_rotated_16_bit_file_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(SIXTEEN_BITS))).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(rgb_from(tmp_path / "x.png"), grey_rgb(eight_bits(SIXTEEN_BITS)))


def odd_exif(orientation: int) -> bytes:
    """EXIF with the orientation, and a resolution unit of 2.5 where a whole number belongs."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, orientation) + struct.pack("<HHIf", 0x0128, 11, 1, 2.5)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)


@pytest.mark.parametrize(
    "orientation",
    [1, 6],
)
def test_odd_entry_of_the_exif_does_no_harm(orientation: int, tmp_path: Path) -> None:
    image, _ = oriented(orientation, np.full((4, 6, 3), 90, dtype=np.uint8))
    image.save(tmp_path / "x.jpg", exif=odd_exif(orientation))
    assert rgb_from(tmp_path / "x.jpg").shape == (4, 6, 3)


@pytest.mark.parametrize("name", ["x.gif", "x.png", "x.webp", "x.tif"])
def test_first_image_of_several_is_taken(name: str, tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (5, 4), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    first.save(tmp_path / name, save_all=True, append_images=[second], **options)
    with Image.open(tmp_path / name) as opened:
        assert getattr(opened, "n_frames", 1) == 2
    assert np.array_equal(rgb_from(tmp_path / name), np.full((4, 5, 3), (255, 0, 0)))


def test_a_process_that_is_forked_while_an_image_is_opened_can_open_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that another thread holds at the fork is never released in the child."""
    Image.fromarray(RGB).save(tmp_path / "a.png")
    opened = Image.open
    entered, leave = threading.Event(), threading.Event()

    def slow(stream: Any) -> Image.Image:
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            leave.wait(60)
        return opened(stream)

    monkeypatch.setattr(Image, "open", slow)
    thread = threading.Thread(target=rgb_from, args=(tmp_path / "a.png",))
    thread.start()
    assert entered.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        os._exit(0 if rgb_from(tmp_path / "a.png").shape == RGB.shape else 1)
    leave.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I", "I;16"])
def test_images_converted_in_strips_have_the_same_pixels(mode: str) -> None:
    rng = np.random.default_rng(3)
    if mode.startswith("I"):
        kind = np.uint16 if mode == "I;16" else np.int32
        image = Image.fromarray(rng.integers(0, 65536, (31, 17)).astype(kind))
    else:
        image = Image.fromarray(rng.integers(0, 256, (31, 17, 4), dtype=np.uint8)).convert(mode)
    assert image.mode == mode
    whole = rgb_from(image)
    for strip in (1, 17 * 4 + 5):
        np.testing.assert_array_equal(rgb_from_pil(image, strip), whole)


def test_a_transparent_palette_is_shown_on_white_in_every_strip() -> None:
    image = Image.fromarray(np.tile(np.array([0, 1], dtype=np.uint8), (9, 4))).convert("P")
    image.info["transparency"] = 0
    pixels = rgb_from_pil(image, 8)
    assert (pixels[:, 0] == 255).all()
    assert (pixels[:, 1] == 1).all()
