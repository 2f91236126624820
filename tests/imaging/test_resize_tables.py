"""Tables of Pillow's resizing: with them whole numbers give the bytes of the installed Pillow."""

import numpy as np
import PIL
import pytest

from condinst_deploy.imaging import resize_tables as tables
from condinst_deploy.imaging.resize import resized_image

SIZES = (1, 2, 3, 7, 30, 61, 257, 640)


def sides(random: np.random.Generator) -> tuple[int, int]:
    """Height and width; small ones are frequent."""
    height, width = (int(random.choice((random.choice(SIZES), random.integers(1, 500)))) for _ in range(2))
    return height, width


@pytest.mark.parametrize("seed", range(4))
def test_any_size_and_content_gives_pillows_bytes(seed: int) -> None:
    random = np.random.default_rng(seed)
    orders = set()
    for content in ["noise", "extremes", "white"] * 40:
        size, resized = sides(random), sides(random)
        image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        if content == "extremes":
            image = np.where(image < 128, 0, 255).astype(np.uint8)
        elif content == "white":
            image[...] = 255
        found = tables.resized_by_tables(image, resized)
        np.testing.assert_array_equal(found, resized_image(image, resized), f"{size} to {resized}", strict=True)
        orders.add(tables.resize_tables(size, resized).columns_first)
    assert orders == ({True, False} if int(PIL.__version__.split(".")[0]) >= 13 else {False})


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((4000, 3000), (1067, 800)),
        ((480, 640), (800, 1067)),
        ((3000, 1000), (1333, 444)),
        ((900, 900), (30, 30)),
        ((4000, 30), (1333, 10)),
        ((30, 4000), (10, 1333)),
    ],
)
def test_sizes_of_images_give_pillows_bytes(size: tuple[int, int], resized: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    np.testing.assert_array_equal(tables.resized_by_tables(image, resized), resized_image(image, resized))


@pytest.mark.parametrize(
    ("size", "resized", "old", "tall", "new"),
    [
        ((480, 640), (800, 1067), False, False, False),
        ((4000, 3000), (1067, 800), False, False, False),
        ((3000, 1000), (1333, 444), False, False, True),
        ((2000, 1000), (1000, 500), False, False, False),  # twice as many pixels, not more
        ((5000, 40), (1000, 30), False, True, True),
        ((100, 1), (200, 2), False, False, False),
    ],
)
def test_the_order_of_the_passes_follows_pillows_version(
    size: tuple[int, int], resized: tuple[int, int], old: bool, tall: bool, new: bool
) -> None:
    found = [tables.columns_first(size, resized, version) for version in ((11, 3), (12, 1), (12, 2), (12, 3), (13, 0))]
    assert found == [old, old, tall, tall, new]


def test_a_pillow_that_computes_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tables.tables_agree_with_pillow()
    monkeypatch.setattr(tables, "columns_first", lambda *_: False)
    tables.resize_tables.cache_clear()
    try:
        assert not tables.tables_agree_with_pillow.__wrapped__()
    finally:
        tables.resize_tables.cache_clear()


def test_coefficients_of_one_pixel_are_one() -> None:
    table = tables.bilinear_coefficients(1, 3)
    assert table.tolist() == [[0, 0, 0], [1, 1, 1], [1 << tables.FRACTIONAL_BITS] * 3]
