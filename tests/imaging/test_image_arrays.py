"""Arrays, tensors and PIL images of every form against the pixels that they were made from."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageCms

from condinst_deploy.errors import ImageError
from condinst_deploy.imaging.decode import rgb_from
from tests.support.images import ALPHA, GREY, RGB, SIXTEEN_BITS, assert_rgb, eight_bits, grey_rgb, on_white

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


def test_tensor_with_channels_last_names_the_layout() -> None:
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


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 4, 5, dtype=torch.uint8, device="meta"),
        torch.zeros(3, 4, 5, dtype=torch.uint8).to_sparse(),
        torch.zeros(3, 4, 5, dtype=torch.complex64).conj().imag,
        torch.zeros(3, 4, 5, dtype=torch.float8_e5m2),
    ],
    ids=["meta", "sparse", "negated", "8 bits"],
)
def test_tensor_without_plain_memory_is_refused_and_described(tensor: torch.Tensor) -> None:
    with pytest.raises(ImageError, match=rf"a tensor is {tensor.dtype}, {tensor.layout}, on {tensor.device}; expected"):
        rgb_from(tensor)


def test_tensor_that_needs_gradients_is_refused_for_its_type_only() -> None:
    with pytest.raises(ImageError, match="float32"):
        rgb_from(torch.zeros(3, 4, 5, requires_grad=True))


@pytest.mark.parametrize(
    ("mode", "tolerance"),
    [("RGB", 0), ("RGBA", 0), ("RGBX", 0), ("RGBa", 0), ("CMYK", 0), ("HSV", 5), ("YCbCr", 3), ("LAB", 5)],
)
def test_pil_images_of_several_colour_modes(mode: str, tolerance: int) -> None:
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


def test_pil_images_of_grey_modes() -> None:
    grey = Image.fromarray(GREY)
    assert np.array_equal(rgb_from(grey), grey_rgb(GREY))
    assert np.array_equal(rgb_from(grey.convert("LA")), grey_rgb(GREY))
    assert np.array_equal(rgb_from(Image.fromarray(GREY > 99)), grey_rgb((GREY > 99) * 255))


def test_pil_images_of_32_bits_are_taken_for_16() -> None:
    levels = np.array([[-5, 0, 257, 65535, 65536, 2**31 - 1]], dtype=np.int32)
    assert rgb_from(Image.fromarray(levels))[0, :, 0].tolist() == [0, 0, 1, 255, 255, 255]


def test_pil_image_itself_is_left_alone() -> None:
    image = Image.fromarray(np.dstack([RGB, ALPHA]))
    rgb_from(image)[...] = 0
    assert np.array_equal(np.asarray(image), np.dstack([RGB, ALPHA]))


def test_pil_image_of_floats_is_refused() -> None:
    with pytest.raises(ImageError, match="floating-point pixels"):
        rgb_from(Image.new("F", (5, 4)))


@pytest.mark.parametrize("images", [{1}, range(3), [[GREY]], (GREY for _ in range(2))])
def test_several_images_in_place_of_one_name_the_form_to_use(images: Any) -> None:
    with pytest.raises(ImageError, match=r"several are a flat list or a tuple of these, and Predictor\.stream takes"):
        rgb_from(images)


@pytest.mark.parametrize(
    "mode",
    [
        "RGB",
        "RGBA",
        "L",
        "I;16",
    ],
)
def test_pil_image_without_pixels_is_refused(mode: str) -> None:
    with pytest.raises(ImageError, match="empty"):
        rgb_from(Image.new(mode, (0, 5)))


@pytest.mark.parametrize("source", [None, 3, {"path": "x.png"}, [RGB]], ids=str)
def test_what_is_no_image_at_all_is_refused_by_its_type(source: Any) -> None:
    with pytest.raises(ImageError, match=f"an image is a {type(source).__name__}; expected a path, an array"):
        rgb_from(source)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_content_of_a_file_alone_is_refused_with_the_form_to_use(kind: Callable[[bytes], object]) -> None:
    with pytest.raises(ImageError, match=rf"an image is a {kind.__name__}; expected EncodedImage\(name, content\) for"):
        rgb_from(kind(b"content"))
