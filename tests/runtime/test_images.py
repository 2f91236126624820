"""Pictures of every kind against the pixels that they were made from."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageCms, features

from condinst_deploy.errors import ImageError
from condinst_deploy.runtime.images import expand_sources, rgb_from, source_name
from tests.models import noise_picture

UInt8 = npt.NDArray[np.uint8]
Levels = npt.NDArray[np.uint16]

RGB = noise_picture(1, 24, 36)
GREY = RGB[..., 1]
ALPHA = np.tile(np.linspace(0, 255, 36).astype(np.uint8), (24, 1))
SIXTEEN_BITS: Levels = np.array(
    [[0, 1, 128, 129, 256, 257], [32767, 32768, 65406, 65407, 65534, 65535]], dtype=np.uint16
)


def grey_rgb(grey: npt.NDArray[Any]) -> UInt8:
    return np.repeat(grey[..., None], 3, axis=2).astype(np.uint8)


def on_white(rgb: UInt8, alpha: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    share = alpha[..., None] / 255.0
    blended: npt.NDArray[np.float64] = rgb * share + 255 * (1 - share)
    return blended


def eight_bits(levels: Levels) -> UInt8:
    return np.rint(levels / 257).astype(np.uint8)


def assert_rgb(result: Any, shape: tuple[int, int]) -> None:
    assert isinstance(result, np.ndarray)
    assert type(result) is np.ndarray
    assert result.dtype == np.uint8
    assert result.shape == (*shape, 3)
    assert result.flags.c_contiguous


def palette_picture() -> tuple[Image.Image, UInt8, npt.NDArray[np.uint8]]:
    """A picture of 16 colours, its indices and its colours."""
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
def test_jpeg_is_close_to_the_picture(progressive: bool, tmp_path: Path) -> None:
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
    image, indices, colours = palette_picture()
    image.save(tmp_path / name)
    assert np.array_equal(rgb_from(tmp_path / name), colours[indices])


@pytest.mark.parametrize("name", ["x.png", "x.gif"])
def test_transparent_colour_of_a_palette_is_white(name: str, tmp_path: Path) -> None:
    image, indices, colours = palette_picture()
    image.save(tmp_path / name, transparency=5)
    result = rgb_from(tmp_path / name)
    assert (result[indices == 5] == 255).all()
    assert np.array_equal(result[indices != 5], colours[indices[indices != 5]])


def test_half_transparent_colours_of_a_palette_are_shown_on_white(tmp_path: Path) -> None:
    image, indices, colours = palette_picture()
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
def test_cmyk_file_is_close_to_the_rgb_picture(name: str, error: float, tmp_path: Path) -> None:
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
def test_first_picture_of_several_is_taken(name: str, tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (5, 4), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    first.save(tmp_path / name, save_all=True, append_images=[second], **options)
    with Image.open(tmp_path / name) as opened:
        assert getattr(opened, "n_frames", 1) == 2
    assert np.array_equal(rgb_from(tmp_path / name), np.full((4, 5, 3), (255, 0, 0)))


ARRAYS: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {
    "grey": (GREY, grey_rgb(GREY)),
    "grey with an axis": (GREY[..., None], grey_rgb(GREY)),
    "rgb": (RGB, RGB),
    "one pixel": (RGB[:1, :1], RGB[:1, :1]),
    "one grey pixel": (GREY[:1, :1], grey_rgb(GREY[:1, :1])),
    "one row": (RGB[:1], RGB[:1]),
    "opaque rgba": (np.dstack([RGB, np.full_like(GREY, 255)]), RGB),
    "invisible rgba": (np.dstack([RGB, np.zeros_like(GREY)]), np.full_like(RGB, 255)),
    "uint16": (SIXTEEN_BITS, grey_rgb(eight_bits(SIXTEEN_BITS))),
    "uint16 rgb": (RGB.astype(np.uint16) * 257, RGB),
    "uint16 rgba": (np.dstack([RGB, np.full_like(GREY, 255)]).astype(np.uint16) * 257, RGB),
    "bool": (GREY > 99, grey_rgb((GREY > 99) * 255)),
    "bool rgb": (RGB > 99, (RGB > 99) * 255),
    "every second column": (RGB[:, ::2], RGB[:, ::2]),
    "upside down": (RGB[::-1], RGB[::-1]),
    "bgr turned to rgb": (RGB[..., ::-1], RGB[..., ::-1]),
    "transposed": (RGB.transpose(1, 0, 2), RGB.transpose(1, 0, 2)),
    "column-major": (np.asfortranarray(RGB), RGB),
    "column-major grey": (np.asfortranarray(GREY), grey_rgb(GREY)),
    "three wide, grey": (GREY[:, :3], grey_rgb(GREY[:, :3])),
    "four high, grey": (GREY[:4], grey_rgb(GREY[:4])),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_every_form(name: str) -> None:
    array, expected = ARRAYS[name]
    before = array.copy()
    result = rgb_from(array)
    assert_rgb(result, expected.shape[:2])
    assert np.array_equal(result, expected)
    assert np.array_equal(array, before)


@pytest.mark.parametrize(
    "name",
    [*ARRAYS],
)
def test_result_is_writable_and_ones_own(name: str) -> None:
    array, _ = ARRAYS[name]
    result = rgb_from(array)
    assert result.flags.writeable
    assert not np.shares_memory(result, array)


def test_half_transparent_array_is_shown_on_white() -> None:
    np.testing.assert_allclose(rgb_from(np.dstack([RGB, ALPHA])), on_white(RGB, ALPHA), atol=1)


@pytest.mark.parametrize(
    "shape", [(), (5,), (4, 5, 2), (4, 5, 5), (3, 4, 5), (1, 4, 5, 3), (0, 5, 3), (4, 0, 3), (0, 0), (4, 5, 0)]
)
def test_array_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"an array has shape .*expected \(H, W, 3\) RGB"):
        rgb_from(np.zeros(shape, dtype=np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8, np.int32, np.int64, np.uint32, np.complex64])
def test_array_of_another_type_is_refused_by_its_name(dtype: type[Any]) -> None:
    with pytest.raises(ImageError, match=rf"an array is {np.dtype(dtype)}; expected uint8 in 0\.\.255"):
        rgb_from(np.zeros((4, 5, 3), dtype=dtype))


TENSORS: dict[str, tuple[torch.Tensor, npt.NDArray[Any]]] = {
    "rgb": (torch.from_numpy(RGB.transpose(2, 0, 1).copy()), RGB),
    "rgb, channels last in memory": (torch.from_numpy(RGB.copy()).permute(2, 0, 1), RGB),
    "grey": (torch.from_numpy(GREY.copy())[None], grey_rgb(GREY)),
    "grey without an axis": (torch.from_numpy(GREY.copy()), grey_rgb(GREY)),
    "bool": (torch.from_numpy(GREY > 99), grey_rgb((GREY > 99) * 255)),
    "three high": (torch.from_numpy(RGB[:3].transpose(2, 0, 1).copy()), RGB[:3]),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_are_channels_first(name: str) -> None:
    tensor, expected = TENSORS[name]
    result = rgb_from(tensor)
    assert_rgb(result, expected.shape[:2])
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("shape", [(24, 36, 3), (2, 24, 36), (1, 3, 24, 36), (36,), (3, 0, 36), (0, 24, 36)])
def test_tensor_of_another_layout_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"has shape .*; expected"):
        rgb_from(torch.zeros(shape, dtype=torch.uint8))


def test_tensor_with_channels_last_is_told_the_layout() -> None:
    with pytest.raises(ImageError, match=r"a tensor has shape \(24, 36, 3\); expected \(3, H, W\), channels first"):
        rgb_from(torch.zeros(24, 36, 3, dtype=torch.uint8))


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float16,
        torch.int64,
        torch.bfloat16,
    ],
)
def test_tensor_of_another_type_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ImageError, match="expected uint8"):
        rgb_from(torch.zeros(3, 4, 5, dtype=dtype))


def test_tensor_that_needs_gradients_is_refused_for_its_type_only() -> None:
    with pytest.raises(ImageError, match="float32"):
        rgb_from(torch.zeros(3, 4, 5, requires_grad=True))


@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [("RGB", 0), ("RGBA", 0), ("RGBX", 0), ("RGBa", 0), ("CMYK", 0), ("HSV", 5), ("YCbCr", 3), ("LAB", 5)],
)
def test_pil_pictures_of_several_colour_modes(mode: str, tolerance: int) -> None:
    muted = RGB // 2 + 64
    image = Image.fromarray(muted)
    # there is no direct way into premultiplied alpha and CIELAB
    if mode == "RGBa":
        image = image.convert("RGBA").convert("RGBa")
    elif mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(image, *profiles, outputMode="LAB")
        assert converted is not None
        image = converted
    else:
        image = image.convert(mode)
    assert image.mode == mode
    result = rgb_from(image)
    assert_rgb(result, (24, 36))
    assert result.flags.writeable
    np.testing.assert_allclose(result.astype(int), muted, atol=tolerance)


def test_pil_pictures_of_grey_modes() -> None:
    grey = Image.fromarray(GREY)
    assert np.array_equal(rgb_from(grey), grey_rgb(GREY))
    assert np.array_equal(rgb_from(grey.convert("LA")), grey_rgb(GREY))
    assert np.array_equal(rgb_from(Image.fromarray(GREY > 99)), grey_rgb((GREY > 99) * 255))


def test_pil_pictures_of_32_bits_are_taken_for_16() -> None:
    levels = np.array([[-5, 0, 257, 65535, 65536, 2**31 - 1]], dtype=np.int32)
    assert rgb_from(Image.fromarray(levels))[0, :, 0].tolist() == [0, 0, 1, 255, 255, 255]


def test_pil_picture_itself_is_left_alone() -> None:
    image = Image.fromarray(np.dstack([RGB, ALPHA]))
    rgb_from(image)[...] = 0
    assert np.array_equal(np.asarray(image), np.dstack([RGB, ALPHA]))


def test_pil_picture_of_floats_is_refused() -> None:
    with pytest.raises(ImageError, match="floating-point pixels"):
        rgb_from(Image.new("F", (5, 4)))


def test_file_of_floats_is_refused_by_its_name(tmp_path: Path) -> None:
    Image.new("F", (5, 4)).save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=r"x\.tif.*floating-point pixels"):
        rgb_from(tmp_path / "x.tif")


@pytest.mark.parametrize(
    "mode",
    [
        "RGB",
        "RGBA",
        "L",
        "I;16",
    ],
)
def test_pil_picture_without_pixels_is_refused(mode: str) -> None:
    with pytest.raises(ImageError, match="empty"):
        rgb_from(Image.new(mode, (0, 5)))


@pytest.mark.parametrize("source", [None, 3, b"x.png", {"path": "x.png"}, [RGB]], ids=str)
def test_what_is_no_picture_at_all_is_refused_by_its_type(source: Any) -> None:
    with pytest.raises(ImageError, match=f"a picture is a {type(source).__name__}; expected a path, an array"):
        rgb_from(source)


def png(path: Path) -> bytes:
    Image.fromarray(RGB).save(path, format="PNG")
    return path.read_bytes()


def png_with_a_broken_chunk(path: Path) -> bytes:
    """The pixels in two chunks, the second one's name being damaged: Pillow calls that a syntax error."""
    whole = png(path)
    name = whole.index(b"IDAT")
    (length,) = struct.unpack(">I", whole[name - 4 : name])
    data, rest = whole[name + 4 : name + 4 + length], whole[name + 8 + length :]
    return whole[: name - 4] + chunk(b"IDAT", data[:99]) + chunk(b"I\0AT", data[99:]) + rest


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def jpeg(path: Path) -> bytes:
    Image.fromarray(noise_picture(2, 80, 90)).save(path, format="JPEG")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("text.jpg", lambda path: b"no picture at all\n"),
        ("zero bytes.png", lambda path: b""),
        ("half.png", lambda path: png(path)[: len(png(path)) // 2]),
        ("half.jpg", lambda path: jpeg(path)[: len(jpeg(path)) // 2]),
        ("signature only.png", lambda path: png(path)[:8]),
        ("header only.png", lambda path: png(path)[:33]),
        ("header only.jpg", lambda path: jpeg(path)[:20]),
        ("flipped.png", lambda path: png(path)[:60] + bytes(40) + png(path)[100:]),
        ("broken chunk.png", png_with_a_broken_chunk),
        ("web page.png", lambda path: b"<!DOCTYPE html><html></html>"),
    ],
)
def test_file_that_cannot_be_decoded_is_refused_by_its_name(
    name: str, content: Callable[[Path], bytes], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content(path))
    with pytest.raises(ImageError) as caught:
        rgb_from(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_damaged_avif_is_refused_by_its_name(tmp_path: Path) -> None:
    path = tmp_path / "x.avif"
    Image.fromarray(RGB).save(path)
    path.write_bytes(path.read_bytes().replace(b"iloc", b"free"))
    with pytest.raises(ImageError, match=r"x\.avif"):
        rgb_from(path)


def test_pil_picture_that_cannot_be_decoded_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.jpg"
    path.write_bytes(jpeg(path)[:1000])
    with Image.open(path) as image, pytest.raises(ImageError):
        rgb_from(image)


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no picture at .*missing\.png"):
        rgb_from(tmp_path / "missing.png")


def test_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no picture at"):
        rgb_from(tmp_path)


@pytest.mark.parametrize("read", [rgb_from, expand_sources])
def test_name_that_no_file_can_have_is_refused(read: Callable[[str], Any]) -> None:
    with pytest.raises(ImageError, match="xxx"):
        rgb_from(read("x" * 5000)[0])


def test_bomb_is_refused_and_a_large_photograph_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RGB[..., 0].size - 1)
    assert np.array_equal(rgb_from(tmp_path / "x.png"), RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RGB[..., 0].size // 2 - 1)
    with pytest.raises(ImageError, match=r"x\.png is too large to be decoded safely"):
        rgb_from(tmp_path / "x.png")


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_folder_becomes_its_pictures_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.jpg", "a.PNG", "10.jpeg", "9.TIFF", "notes.txt", "x.json", "png", "deeper/c.png")
    expected = [tmp_path / name for name in ("10.jpeg", "9.TIFF", "a.PNG", "b.jpg")]
    assert expand_sources(tmp_path) == expected
    assert expand_sources(str(tmp_path)) == expected
    assert expand_sources([str(tmp_path)]) == expected


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "bmp", "gif", "tif", "tiff", "webp", "ppm", "pgm", "jp2"])
def test_folder_is_searched_for_every_kind_that_can_be_read(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / f"x.{suffix}")
    (path,) = expand_sources(tmp_path)
    assert_rgb(rgb_from(path), (24, 36))


def test_folder_without_pictures_is_refused_by_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "empty/deeper/x.png", "empty/x.txt")
    with pytest.raises(ImageError, match=r"empty has no pictures; expected files ending in \.avif, \.bmp"):
        expand_sources(tmp_path / "empty")


def test_folder_named_like_a_picture_is_not_one(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png/c.txt")
    assert expand_sources(tmp_path) == [tmp_path / "a.png"]


def test_pattern_becomes_its_files_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b1.png", "b10.png", "b2.png", "a.png", "b3.txt", "b4/x.png")
    assert expand_sources(f"{tmp_path}/b*.png") == [tmp_path / name for name in ("b1.png", "b10.png", "b2.png")]
    assert expand_sources(tmp_path / "b?.*") == [tmp_path / name for name in ("b1.png", "b2.png", "b3.txt")]
    assert expand_sources(f"{tmp_path}/b*") == [tmp_path / f"b{name}" for name in ("1.png", "10.png", "2.png", "3.txt")]


def test_pattern_of_two_stars_goes_into_every_folder(tmp_path: Path) -> None:
    touch(tmp_path, "z.png", "a/y.png", "a/b/x.png", "a/b/x.txt")
    expected = [tmp_path / name for name in ("a/b/x.png", "a/y.png", "z.png")]
    assert expand_sources(f"{tmp_path}/**/*.png") == expected


def test_pattern_that_matches_nothing_is_refused_by_its_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "folder.gif/x.txt")
    for pattern in ("*.jpg", "*.gif"):
        with pytest.raises(ImageError, match="nothing matches") as caught:
            expand_sources(f"{tmp_path}/{pattern}")
        assert f"{tmp_path}/{pattern}" in str(caught.value)


@pytest.mark.parametrize("name", ["[set]", "a*b", "what?"])
def test_names_with_the_signs_of_a_pattern_stand_for_themselves(name: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{name}/x.png", f"{name}.png", "s/no.png", "aXb/no.png", "whatX/no.png", "s.png", "whatX.png")
    assert expand_sources(tmp_path / name) == [tmp_path / name / "x.png"]
    assert expand_sources(f"{tmp_path}/{name}.png") == [tmp_path / f"{name}.png"]


def test_missing_file_is_left_for_decoding_to_refuse(tmp_path: Path) -> None:
    assert expand_sources(tmp_path / "missing.png") == [tmp_path / "missing.png"]


def test_sources_keep_their_order(tmp_path: Path) -> None:
    touch(tmp_path, "z.png", "folder/b.png", "folder/a.png")
    image = Image.fromarray(RGB)
    expanded = expand_sources((tmp_path / "z.png", RGB, tmp_path / "folder", image, tmp_path / "z.png"))
    assert [expanded[i] for i in (0, 2, 3, 5)] == [
        tmp_path / name for name in ("z.png", "folder/a.png", "folder/b.png", "z.png")
    ]
    assert expanded[1] is RGB
    assert expanded[4] is image
    assert len(expanded) == 6


@pytest.mark.parametrize(
    "source", [RGB, torch.zeros(3, 4, 5), Image.new("RGB", (5, 4))], ids=["array", "tensor", "PIL"]
)
def test_one_picture_is_a_list_of_one(source: Any) -> None:
    (only,) = expand_sources(source)
    assert only is source


@pytest.mark.parametrize("sources", [[], ()])
def test_no_sources_are_no_pictures(sources: Any) -> None:
    assert expand_sources(sources) == []


def test_pictures_are_called_by_their_path_or_their_place() -> None:
    assert source_name(Path("a") / "b.png", 3) == "a/b.png"
    assert source_name("b.png", 3) == "b.png"
    assert source_name(RGB, 3) == "picture 3"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_exif_that_cannot_be_read_does_no_harm(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{kind.lower()}"
    Image.new("RGB", (6, 4), (90, 90, 90)).save(path, format=kind, exif=b"Exif\0\0garbagegarbage")
    assert rgb_from(path).shape == (4, 6, 3)
