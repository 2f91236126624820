"""Sizes of images: the references' roundings, canvases, and the way back to original pixels."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condinst_deploy.contract import Family, ImageGeometry, Preprocessing
from condinst_deploy.model.family_settings import ADELAIDET_PREPROCESSING
from tests.support.models import GOLDEN

Size = tuple[int, int]

SIDE = st.integers(1, 6000)


# sizes are (height, width)
@pytest.mark.parametrize(
    ("original", "resized", "padded"),
    [
        ((400, 600), (800, 1200), (800, 1216)),
        ((600, 400), (1200, 800), (1216, 800)),
        ((512, 512), (800, 800), (800, 800)),
        ((480, 640), (800, 1067), (800, 1088)),
        ((427, 640), (800, 1199), (800, 1216)),
        ((1080, 1920), (750, 1333), (768, 1344)),
        ((3000, 4000), (800, 1067), (800, 1088)),
        ((800, 1333), (800, 1333), (800, 1344)),
        ((1, 1), (800, 800), (800, 800)),
        ((1, 2), (667, 1333), (672, 1344)),
        ((20, 1000), (27, 1333), (32, 1344)),
        ((1000, 20), (1333, 27), (1344, 32)),
        ((1, 2666), (1, 1333), (32, 1344)),
        ((1, 3000), (1, 1333), (32, 1344)),
        ((3000, 1), (1333, 1), (1344, 32)),
        ((1, 100_000), (1, 1333), (32, 1344)),
    ],
)
def test_known_sizes(original: Size, resized: Size, padded: Size) -> None:
    assert ImageGeometry.of(original, Preprocessing()) == ImageGeometry(original, resized, padded)


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_sizes_are_those_that_mmdetection_recorded(name: str) -> None:
    with np.load(GOLDEN / "mmdet" / f"{name}_seed0.npz") as archive:
        height, width = archive["0.ori_shape"].tolist()
        geometry = ImageGeometry.of((height, width), Preprocessing())
        assert geometry.resized == tuple(archive["0.img_shape"].tolist())
        assert geometry.padded == tuple(archive["input_shape"].tolist()[-2:])


@pytest.mark.parametrize(
    ("original", "resized", "mmdet"),
    [
        # what detectron2's ResizeShortestEdge.get_output_shape gives for 800 and 1333, and mmdetection's rule
        ((480, 640), (800, 1067), (800, 1067)),
        ((640, 427), (1199, 800), (1199, 800)),
        ((612, 612), (800, 800), (800, 800)),
        ((1080, 1920), (750, 1333), (750, 1333)),
        ((100, 1000), (133, 1333), (133, 1333)),
        # exactly a half in real numbers: two roundings come out below it, or above it
        ((222, 372), (795, 1333), (796, 1333)),
        ((407, 682), (795, 1333), (796, 1333)),
        ((372, 138), (1333, 494), (1333, 495)),
        ((470, 860), (728, 1333), (729, 1333)),
        ((622, 311), (1333, 667), (1333, 666)),
        ((298, 596), (667, 1333), (666, 1333)),
    ],
)
def test_adelaidets_sizes_are_rounded_in_two_steps(original: Size, resized: Size, mmdet: Size) -> None:
    assert ImageGeometry.of(original, ADELAIDET_PREPROCESSING).resized == resized
    assert ImageGeometry.of(original, Preprocessing()).resized == mmdet


@pytest.mark.parametrize("canvas", [(800, 1344), (1344, 800), (320, 320)])
@pytest.mark.parametrize("original", [(400, 600), (600, 400), (1000, 20), (222, 372), (1, 3000)])
def test_adelaidets_images_fit_a_canvas(original: Size, canvas: Size) -> None:
    geometry = ImageGeometry.of(original, ADELAIDET_PREPROCESSING, canvas)
    one_step = ImageGeometry.of(original, Preprocessing(), canvas)
    assert geometry.padded == canvas
    for side, limit, other in zip(geometry.resized, canvas, one_step.resized, strict=True):
        assert 1 <= side <= limit
        assert abs(side - other) <= 1


@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_sizes_are_those_that_adelaidet_recorded(name: str) -> None:
    with np.load(GOLDEN / "adelaidet" / f"{name}_seed0.npz") as archive:
        height, width = archive["im0_original_hw"].tolist()
        geometry = ImageGeometry.of((height, width), ADELAIDET_PREPROCESSING)
        assert geometry.resized == tuple(archive["im0_resized_hw"].tolist())
        assert geometry.padded == tuple(archive["im0_padded_hw"].tolist())


@pytest.mark.parametrize("family", ["mmdet", "adelaidet"])
@given(height=SIDE, width=SIDE, short=st.integers(1, 1000), more=st.integers(0, 1000))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_sizes_follow_the_rule_in_exact_arithmetic(
    family: Family, height: int, width: int, short: int, more: int
) -> None:
    preprocessing = Preprocessing(short_side=short, long_side=short + more, family=family)
    geometry = ImageGeometry.of((height, width), preprocessing)
    scale = min(Fraction(short, min(height, width)), Fraction(short + more, max(height, width)))
    for side, resized, padded in zip((height, width), geometry.resized, geometry.padded, strict=True):
        exact = side * scale
        # a half may be rounded either way by the references' floating-point scale
        allowed = {math.floor(exact + Fraction(1, 2)), math.ceil(exact - Fraction(1, 2))}
        assert resized in {max(1, n) for n in allowed}
        assert padded % 32 == 0
        assert 0 <= padded - resized < 32


@pytest.mark.parametrize(
    ("original", "resized"),
    [
        ((400, 600), (800, 1200)),
        ((600, 400), (800, 533)),
        ((1000, 20), (800, 16)),
        ((20, 1000), (27, 1333)),
        ((1, 1), (800, 800)),
        ((3000, 1), (800, 1)),
        ((800, 1344), (793, 1333)),
    ],
)
def test_landscape_canvas_takes_images_of_both_orientations(original: Size, resized: Size) -> None:
    geometry = ImageGeometry.of(original, Preprocessing(), (800, 1344))
    assert geometry == ImageGeometry(original, resized, (800, 1344))


@pytest.mark.parametrize(
    ("original", "resized"), [((600, 400), (1200, 800)), ((400, 600), (533, 800)), ((20, 1000), (16, 800))]
)
def test_portrait_canvas_takes_images_of_both_orientations(original: Size, resized: Size) -> None:
    geometry = ImageGeometry.of(original, Preprocessing(), (1344, 800))
    assert geometry == ImageGeometry(original, resized, (1344, 800))


@given(SIDE, SIDE, st.integers(1, 60), st.integers(1, 60))
@settings(deadline=None, derandomize=True, max_examples=300)
def test_every_image_fits_into_every_canvas(height: int, width: int, rows: int, columns: int) -> None:
    canvas = (32 * rows, 32 * columns)
    geometry = ImageGeometry.of((height, width), Preprocessing(), canvas)
    free = ImageGeometry.of((height, width), Preprocessing())
    assert geometry.padded == canvas
    assert all(1 <= side <= limit for side, limit in zip(geometry.resized, canvas, strict=True))
    if all(side <= limit for side, limit in zip(free.resized, canvas, strict=True)):
        assert geometry.resized == free.resized
    else:
        assert any(side == limit for side, limit in zip(geometry.resized, canvas, strict=True))


def test_boxes_go_back_to_original_pixels() -> None:
    geometry = ImageGeometry(original=(50, 300), resized=(200, 600), padded=(224, 608))
    boxes = np.array([[0, 0, 600, 200], [20, 20, 61, 42]], dtype=np.float32)
    back = geometry.to_original(boxes)
    assert back.dtype == np.float32
    assert back.tolist() == [[0, 0, 300, 50], [10, 5, 30.5, 10.5]]


@pytest.mark.parametrize("original", [(427, 640), (1, 3000), (3000, 1), (1, 1)])
def test_whole_network_image_is_the_whole_original(original: Size) -> None:
    geometry = ImageGeometry.of(original, Preprocessing())
    height, width = geometry.resized
    corner = geometry.to_original(np.array([[0, 0, width, height]], dtype=np.float32))
    np.testing.assert_allclose(corner, [[0, 0, original[1], original[0]]], rtol=1e-6)


def test_no_boxes_go_back_to_no_boxes() -> None:
    back = ImageGeometry.of((4, 6), Preprocessing()).to_original(np.zeros((0, 4), dtype=np.float32))
    assert back.shape == (0, 4)
    assert back.dtype == np.float32
