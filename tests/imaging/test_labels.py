"""Captions: inside the image, not over each other, short enough."""

import itertools

import numpy as np
import pytest
from PIL import Image

from condinst_deploy.imaging.labels import Label, Rectangle, draw_labels, fitted, text_width
from condinst_deploy.imaging.palette import PALETTE


def labels(count: int, width: int, height: int, seed: int) -> list[Label]:
    random = np.random.default_rng(seed)
    corners = random.uniform((-20, -20), (width, height), (count, 2))
    sizes = random.uniform(1, 80, (count, 2))
    boxes = np.concatenate((corners, corners + sizes), axis=1).tolist()
    return [Label(f"class {i} 0.50", tuple(box), PALETTE[i % 3]) for i, box in enumerate(boxes)]


def overlap(a: Rectangle, b: Rectangle) -> bool:
    return a.x < b.x + b.width and b.x < a.x + a.width and a.y < b.y + b.height and b.y < a.y + a.height


@pytest.mark.parametrize(("count", "width", "height"), [(40, 640, 480), (12, 300, 200), (100, 300, 200), (3, 90, 30)])
def test_labels_lie_inside_the_image_and_not_over_each_other(count: int, width: int, height: int) -> None:
    places = draw_labels(Image.new("RGB", (width, height)), labels(count, width, height, count), 11)
    written = [place for place in places if place is not None]
    assert written
    for place in written:
        assert min(place.x, place.y) >= 0
        assert place.x + place.width <= width
        assert place.y + place.height <= height
    assert not any(overlap(a, b) for a, b in itertools.combinations(written, 2))
    covered = sum(place.width * place.height for place in written)
    assert covered <= width * height / 5 or len(written) == 1  # the image is still seen
    if count * 90 * 18 < width * height / 5:  # there is room for all
        assert len(written) == count


def test_labels_of_one_box_are_all_written() -> None:
    same = [Label("cat 0.90", (100, 100, 140, 140), PALETTE[0])] * 12
    places = draw_labels(Image.new("RGB", (400, 300)), same, 11)
    assert None not in places
    assert len(set(places)) == 12
    # the first one is where a reader looks for it: above the box, from its left side on
    assert places[0] is not None
    assert (places[0].x, places[0].y + places[0].height) == (100, 100)


def test_a_label_has_its_classes_colour_and_a_text() -> None:
    image = Image.new("RGB", (200, 60))
    (place,) = draw_labels(image, [Label("cat", (20, 30, 80, 50), (240, 228, 66))], 12)
    assert place is not None
    x, y, width, height = place
    pixels = np.asarray(image)[y : y + height, x : x + width]
    assert pixels[0, 0].tolist() == [240, 228, 66]
    assert (pixels.max(axis=2) < 60).any()  # black text on yellow
    assert not np.asarray(image)[: y - 1].any()


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (20, 20), (16, 600), (600, 5)])
@pytest.mark.parametrize("text", ["cat 0.90", "a long name of a class 0.90"])
def test_an_image_smaller_than_any_label_has_none(size: tuple[int, int], text: str) -> None:
    image = Image.new("RGB", size)
    assert draw_labels(image, [Label(text, (0, 0, 8, 8), (255, 0, 0))], 11) == [None]
    assert not np.asarray(image).any()


def test_long_captions_keep_their_beginning_and_the_score() -> None:
    name = "x" * 1_000_000
    short = fitted(f"cat {name} 0.93", 150, 12)
    assert short.startswith("cat x")
    assert short.endswith("x\u2026 0.93")
    assert 100 < text_width(short, 12) <= 150
    assert fitted("cat 0.93", 150, 12) == "cat 0.93"
    assert fitted("cat 0.93", 1, 12) == ""
