"""Augmentation: targets follow the image, boxes are those of what is left, and it is off unless a recipe asks."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from condinst_deploy.contract import Preprocessing
from condinst_deploy.data.augmentation import Augmentation
from condinst_deploy.data.coco import Sample
from condinst_deploy.data.transforms import TrainingExample, TrainingTransform
from condinst_deploy.errors import ConfigError
from tests.support.models import noise_image

HEIGHT, WIDTH, CROP = 96, 128, 64
PREPROCESSING = Preprocessing(short_side=HEIGHT, long_side=256)


def sample() -> Sample:
    """Three rectangles that are their masks: one at the left, one in the middle, a small one at the right."""
    boxes = np.array([[2, 3, 40, 90], [30, 20, 100, 70], [118, 80, 126, 92]], dtype=np.float32)
    masks = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8, order="F")
    for i, (x1, y1, x2, y2) in enumerate(boxes.astype(int).tolist()):
        masks[y1:y2, x1:x2, i] = 1
    return Sample(1, noise_image(0, HEIGHT, WIDTH), boxes, np.array([2, 0, 1]), tuple(coco_mask.encode(masks)))


def example_of(seed: int = 0, flip: float = 0.0, **settings: Any) -> TrainingExample:
    transform = TrainingTransform(PREPROCESSING, (HEIGHT,), flip, Augmentation(**settings))
    return transform(sample(), np.random.default_rng(seed))


def test_a_crop_shows_one_place_of_image_and_masks() -> None:
    whole = example_of()
    places = set()
    for seed in range(20):
        crop = example_of(seed, crop=CROP)
        assert crop.image.shape == (CROP, CROP, 3)
        (place,) = [
            (y, x)
            for y in range(HEIGHT - CROP + 1)
            for x in range(WIDTH - CROP + 1)
            if np.array_equal(whole.image[y : y + CROP, x : x + CROP], crop.image)
        ]
        y, x = place
        places.add(place)
        cut = whole.targets.masks[:, y : y + CROP, x : x + CROP]
        seen = cut.flatten(1).any(dim=1)
        torch.testing.assert_close(crop.targets.masks, cut[seen])
        assert crop.targets.labels.tolist() == whole.targets.labels[seen].tolist()
        # the objects are rectangles, so that the box of what is left is the clipped box
        shifted = (whole.targets.boxes[seen] - torch.tensor([x, y, x, y])).clamp(0, CROP)
        torch.testing.assert_close(crop.targets.boxes, shifted)
    assert len(places) > 15


def test_a_cut_object_has_the_box_of_its_mask() -> None:
    """A triangle's visible part can be smaller than its clipped box."""
    triangle = np.array([10.0, 5.0, 120.0, 90.0, 10.0, 90.0])
    boxes = np.array([[10, 5, 120, 90]], dtype=np.float32)
    one = Sample(1, noise_image(0, HEIGHT, WIDTH), boxes, np.array([0]), ((triangle,),))
    transform = TrainingTransform(PREPROCESSING, (HEIGHT,), 0.0, Augmentation(crop=CROP))
    smaller = 0
    for seed in range(20):
        targets = transform(one, np.random.default_rng(seed)).targets
        rows, columns = np.nonzero(targets.masks[0].numpy())
        want = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert targets.boxes[0].tolist() == want
        smaller += want[0] > 0 or want[2] < CROP or want[1] > 0 or want[3] < CROP
    assert smaller > 0


def test_an_image_that_fits_is_not_cropped() -> None:
    whole, same = example_of(), example_of(crop=WIDTH)
    np.testing.assert_array_equal(whole.image, same.image)
    torch.testing.assert_close(whole.targets.boxes, same.targets.boxes)


def test_colours_change_by_factors_within_the_settings_and_targets_do_not() -> None:
    whole = example_of()
    factors = []
    for seed in range(10):
        bright = example_of(seed, brightness=0.3)
        torch.testing.assert_close(bright.targets.masks, whole.targets.masks)
        torch.testing.assert_close(bright.targets.boxes, whole.targets.boxes)
        middle = (whole.image > 60) & (whole.image < 180)  # nothing is clipped there
        ratios = bright.image[middle] / whole.image[middle]
        assert ratios.std() < 0.01
        factors.append(ratios.mean())
    assert 0.69 < min(factors) < 0.95
    assert 1.05 < max(factors) < 1.31
    for name in ("contrast", "saturation", "hue"):
        settings: dict[str, Any] = {name: 0.3}
        other = example_of(**settings)
        assert other.image.shape == whole.image.shape
        assert other.image.dtype == np.uint8
        assert (other.image != whole.image).any(), name


def test_the_scale_is_within_the_settings() -> None:
    heights = [example_of(seed, scale=(0.5, 1.5)).image.shape[0] for seed in range(30)]
    assert HEIGHT * 0.5 <= min(heights) < HEIGHT * 0.7
    assert HEIGHT * 1.3 < max(heights) <= HEIGHT * 1.5
    assert len(set(heights)) > 15


def test_one_setting_does_not_change_anothers_numbers() -> None:
    crops = [example_of(5, crop=CROP, **other).targets for other in ({}, {"brightness": 0.5}, {"hue": 0.1})]
    for other in crops[1:]:
        torch.testing.assert_close(other.masks, crops[0].masks)


def test_the_same_numbers_give_the_same_example() -> None:
    settings: dict[str, Any] = {"scale": (0.5, 2.0), "crop": CROP, "brightness": 0.2, "hue": 0.1, "flip": 0.5}
    one, same, other = (example_of(seed, **settings) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.image, same.image)
    assert one.image.shape != other.image.shape or (one.image != other.image).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"brightness": 1.5}, r"augment\.brightness is 1\.5; expected a number from 0 to 1"),
        ({"hue": 0.6}, r"augment\.hue is 0\.6"),
        ({"scale": (1.2, 0.8)}, r"augment\.scale is \[1\.2, 0\.8\]; expected the least factor first"),
        ({"scale": (1.0,)}, r"augment\.scale is \(1\.0,\); expected a tuple: a number, a number"),
        ({"scale": (0.0, 1.0)}, r"augment\.scale\[0\] is 0\.0"),
        ({"crop": -1}, r"augment\.crop is -1"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation(**settings)
    assert not replace(Augmentation()).on
