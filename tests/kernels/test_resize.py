"""The resizing kernel gives Pillow's bytes, and zeros around them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.imaging.resize import resized_image
from condinst_deploy.kernels.resize_launch import ResizeNumbers
from condinst_deploy.runtime.preprocessing.batch import network_inputs
from tests.support.device_resize import Size, batch_of, resized
from tests.support.interpreter import interpreted
from tests.support.models import noise_image

Case = tuple[Size, Size, Size]
"""Size of the image, resized, padded."""

CASES: list[Case] = [
    ((10, 14), (15, 22), (16, 32)),
    ((20, 19), (12, 9), (16, 16)),
    ((1, 1), (1, 1), (2, 2)),
    ((1, 1), (17, 5), (20, 8)),
    ((30, 2), (1, 3), (32, 32)),  # 30:1; Pillow 13 begins with the height
    ((2, 30), (3, 1), (32, 32)),
    ((30, 8), (12, 4), (12, 8)),
    ((9, 7), (9, 12), (12, 12)),  # one axis stays
    ((6, 150), (6, 140), (6, 140)),  # two tiles, no padding
]
SWEEP = 60
Window = tuple[int, int, int, int]
"""First row, first column, rows, columns."""

WINDOWS: list[tuple[Size, Size, Window]] = [
    ((3000, 4000), (1000, 1333), (0, 0, 4, 128)),
    ((3000, 4000), (1000, 1333), (498, 640, 6, 130)),
    ((3000, 4000), (1000, 1333), (995, 1203, 5, 130)),  # the last pixels
    ((4000, 3000), (1333, 1000), (1331, 997, 2, 3)),
    ((4000, 8), (1333, 3), (1213, 0, 120, 3)),
    ((8, 4000), (3, 1333), (0, 1303, 3, 30)),
    ((1, 4000), (1, 1333), (0, 1213, 1, 120)),
    ((4000, 1), (1333, 1), (1303, 0, 30, 1)),
    ((40, 3000), (2000, 100), (1990, 90, 10, 10)),  # 30:1 along one axis, the other grows
    ((3000, 40), (100, 2000), (90, 1990, 10, 10)),
]
"""Of images as large as photographs: the interpreter takes minutes for all of one."""

LARGE: list[Case] = [
    ((480, 640), (800, 1067), (800, 1088)),
    ((3000, 4000), (800, 1067), (800, 1088)),
    ((3000, 900), (1333, 400), (1344, 416)),
    ((900, 900), (30, 30), (32, 32)),
]
BATCH = [noise_image(seed, 20, 30 - seed) for seed in range(2)]
GEOMETRIES = [ImageGeometry((20, 30 - seed), (13 - seed, 19), (16, 32)) for seed in range(2)]


def content(seed: int, size: Size) -> Tensor:
    """Noise, black and white pixels, or a plane of white."""
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    return torch.from_numpy((image, np.where(image < 128, 0, 255).astype(np.uint8), np.full_like(image, 255))[seed % 3])


def random_case(seed: int) -> Case:
    random = np.random.default_rng(100 + seed)
    height, width, small_height, small_width = (int(side) for side in random.integers(1, 24, 4))
    more_height, more_width = (int(side) for side in random.integers(0, 9, 2))
    return (height, width), (small_height, small_width), (small_height + more_height, small_width + more_width)


def check(case: Case, image: Tensor, found: Tensor) -> None:
    _, (height, width), padded = case
    want = np.zeros((*padded, 3), dtype=np.uint8)
    want[:height, :width] = resized_image(image.numpy(), (height, width))
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), want, strict=True)


def batch_call(device: str = "cpu") -> tuple[Any, ...]:
    sizes = [(geometry.resized, geometry.padded) for geometry in GEOMETRIES]
    return [torch.from_numpy(image) for image in BATCH], sizes, 4, device


@pytest.fixture(scope="module")
def results() -> list[Any]:
    calls = [("tests.support.device_resize:resized", (content(i, case[0]), *case[1:])) for i, case in enumerate(CASES)]
    return interpreted([*calls, ("tests.support.device_resize:batch_of", batch_call())])


@pytest.mark.parametrize("i", range(len(CASES)), ids=lambda i: str(CASES[i]))
def test_the_kernel_gives_pillows_bytes(results: list[Any], i: int) -> None:
    check(CASES[i], content(i, CASES[i][0]), results[i])


def test_windows_of_large_images_are_pillows_bytes() -> None:
    images = [content(i, original) for i, (original, *_) in enumerate(WINDOWS)]
    calls = [
        ("tests.support.device_resize:window_of_resized", (image, size, window))
        for image, (_, size, window) in zip(images, WINDOWS, strict=True)
    ]
    for image, (_, size, (top, left, height, width)), found in zip(images, WINDOWS, interpreted(calls), strict=True):
        want = resized_image(image.numpy(), size)[top : top + height, left : left + width]
        np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), want, strict=True)


def check_batch(found: list[Tensor]) -> None:
    images, sizes, alone, _ = (tensor.numpy() for tensor in found)
    want = network_inputs(BATCH, GEOMETRIES, 4)
    np.testing.assert_array_equal(images, want.images, strict=True)
    np.testing.assert_array_equal(sizes, want.image_sizes, strict=True)
    np.testing.assert_array_equal(alone, want.images[:1], strict=True)


def test_a_batch_of_decoded_images_is_the_one_of_the_host(results: list[Any]) -> None:
    check_batch(results[-1])


@pytest.mark.slow
def test_random_sizes_give_pillows_bytes() -> None:
    cases = [random_case(seed) for seed in range(SWEEP)]
    calls = [("tests.support.device_resize:resized", (content(i, case[0]), *case[1:])) for i, case in enumerate(cases)]
    for i, (case, found) in enumerate(zip(cases, interpreted(calls), strict=True)):
        check(case, content(i, case[0]), found)


def test_the_axis_of_the_second_pass_is_the_outer_one() -> None:
    numbers = ResizeNumbers.of(640, (800, 1067), (800, 1088), columns_first=False)
    assert numbers == (1920, 3, 800, 1067, 800, 1088, 1088, 1)
    assert numbers.grid == (9, 200, 1)
    turned = ResizeNumbers.of(640, (800, 1067), (800, 1088), columns_first=True)
    assert turned == (3, 1920, 1067, 800, 1088, 800, 1, 1088)
    assert turned.grid == (7, 272, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES + [random_case(seed) for seed in range(SWEEP)] + LARGE, ids=str)
def test_the_compiled_kernel_gives_pillows_bytes(case: Case) -> None:
    for seed in range(3):
        image = content(seed, case[0])
        check(case, image, resized(image.cuda(), *case[1:]).cpu())


@pytest.mark.gpu
def test_a_batch_on_a_gpu_is_the_one_of_the_host() -> None:
    check_batch(batch_of(*batch_call("cuda:0")))
