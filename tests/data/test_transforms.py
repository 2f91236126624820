"""Training transforms: images as inference makes them, targets that go with them, and nothing random of their own."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.data.coco import Sample, masks_at
from condinst_deploy.data.transforms import TrainingExample, TrainingTransform, collate, resized
from condinst_deploy.errors import ConfigError
from condinst_deploy.runtime.preprocessing.batch import network_inputs
from tests.support.models import IMAGES, noise_image

SMALL = Preprocessing(short_side=96, long_side=160)
POLYGON = [10.0, 8.0, 70.0, 12.0, 60.0, 50.0, 22.0, 44.0]


def sample(height: int = 72, width: int = 100, instances: int = 2) -> Sample:
    bitmap = np.zeros((height, width), dtype=np.uint8, order="F")
    bitmap[20:40, 30:90] = 1
    boxes = np.array([[10, 8, 70, 50], [30, 20, 90, 40]], dtype=np.float32)
    return Sample(
        image_id=1,
        image=noise_image(0, height, width),
        boxes=boxes[:instances],
        labels=np.array([2, 0], dtype=np.int64)[:instances],
        segmentations=((np.array(POLYGON),), coco_mask.encode(bitmap))[:instances],
    )


def assert_same(a: TrainingExample, b: TrainingExample) -> None:
    np.testing.assert_array_equal(a.image, b.image)
    for name in ("boxes", "labels", "masks"):
        torch.testing.assert_close(getattr(a.targets, name), getattr(b.targets, name), rtol=0, atol=0)


@pytest.mark.parametrize("side", [96, 61, 160])
def test_images_are_resized_as_for_inference(side: int) -> None:
    preprocessing = Preprocessing(short_side=side, long_side=200)
    image = np.asarray(Image.open(IMAGES / "coffee.png").convert("RGB"))
    whole = Sample(1, image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), ())
    geometry = ImageGeometry.of((image.shape[0], image.shape[1]), preprocessing)
    want = network_inputs([image], [geometry])
    batch = collate([resized(whole, preprocessing)], 32)
    np.testing.assert_array_equal(batch.images.numpy(), want.images)
    np.testing.assert_array_equal(batch.image_sizes.numpy(), want.image_sizes)


def test_boxes_and_masks_are_scaled_with_the_image() -> None:
    original = sample()
    example = resized(original, SMALL)
    height, width = example.image.shape[:2]
    assert (height, width) == (96, 133)  # 1.333 times; 100 * 1.3333 + 0.5
    scale = torch.tensor([1.33, 96 / 72] * 2)
    torch.testing.assert_close(example.targets.boxes, torch.from_numpy(original.boxes) * scale)
    np.testing.assert_array_equal(example.targets.masks.numpy(), masks_at(original, (height, width)))
    assert example.targets.masks.dtype == torch.bool
    assert example.targets.labels.tolist() == [2, 0]


def test_boxes_are_clipped_to_the_image() -> None:
    outside = sample(instances=1)
    boxes = np.array([[-5, -3, 500, 400]], dtype=np.float32)
    example = resized(Sample(1, outside.image, boxes, outside.labels, outside.segmentations), SMALL)
    assert example.targets.boxes.tolist() == [[0, 0, 133, 96]]


def test_flipping_mirrors_image_boxes_and_masks() -> None:
    example, flipped = resized(sample(), SMALL), resized(sample(), SMALL, flipped=True)
    width = example.image.shape[1]
    mirrored = [[width - x2, y1, width - x1, y2] for x1, y1, x2, y2 in example.targets.boxes.tolist()]
    torch.testing.assert_close(flipped.targets.boxes, torch.tensor(mirrored))
    assert torch.equal(flipped.targets.labels, example.targets.labels)
    np.testing.assert_array_equal(flipped.image, example.image[:, ::-1])
    # a bitmap is mirrored as it is
    assert torch.equal(flipped.targets.masks[1], example.targets.masks[1].flip(1))
    assert (flipped.targets.masks != example.targets.masks).any()
    for box, mask in zip(flipped.targets.boxes, flipped.targets.masks, strict=True):
        x1, y1, x2, y2 = box.tolist()
        columns, rows = torch.where(mask.any(0))[0], torch.where(mask.any(1))[0]
        found = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        assert found == pytest.approx([x1, y1, x2, y2], abs=1.01)


def test_polygons_are_mirrored_before_they_are_rasterised() -> None:
    """As mmdetection does: scaled, then x -> width - x, then rasterised; a mirrored bitmap differs by pixels."""
    rng = np.random.default_rng(5)
    differing = 0
    for _ in range(20):
        polygon = rng.uniform(2, 70, 12)
        whole = sample(instances=1)
        example = resized(replace(whole, segmentations=((polygon,),)), SMALL)
        flipped = resized(replace(whole, segmentations=((polygon,),)), SMALL, flipped=True)
        height, width = example.image.shape[:2]
        points = polygon.reshape(-1, 2) * (width / 100, height / 72)
        points[:, 0] = width - points[:, 0]
        want = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([points.ravel()], height, width)))
        np.testing.assert_array_equal(flipped.targets.masks[0].numpy(), want.astype(bool))
        differing += int((flipped.targets.masks[0] != example.targets.masks[0].flip(1)).sum())
    assert 0 < differing < 0.01 * 20 * 96 * 133


def test_the_generator_alone_decides_an_example() -> None:
    transform = TrainingTransform(SMALL, (64, 80, 96), 0.5)
    examples = [transform(sample(), np.random.default_rng(seed)) for seed in range(24)]
    again = [transform(sample(), np.random.default_rng(seed)) for seed in range(24)]
    for a, b in zip(examples, again, strict=True):
        assert_same(a, b)
    assert {e.image.shape[0] for e in examples} == {64, 80, 96}
    mirrored = [not np.array_equal(e.image, resized(sample(), preprocessing_of(e)).image) for e in examples]
    assert 6 <= sum(mirrored) <= 18


def preprocessing_of(example: TrainingExample) -> Preprocessing:
    return Preprocessing(short_side=example.image.shape[0], long_side=SMALL.long_side)


@pytest.mark.parametrize(("flip", "mirrored"), [(0.0, False), (1.0, True)])
def test_the_flip_s_probability_is_kept(flip: float, mirrored: bool) -> None:
    plain = resized(sample(), SMALL)
    rng = np.random.default_rng(0)
    for _ in range(10):
        example = TrainingTransform(SMALL, (96,), flip)(sample(), rng)
        assert_same(example, resized(sample(), SMALL, flipped=mirrored))
    assert np.array_equal(example.image, plain.image) != mirrored


def test_a_batch_is_padded_with_zeros_at_the_bottom_and_right() -> None:
    examples = [
        resized(sample(), SMALL),
        resized(sample(100, 72, 1), SMALL),
        resized(sample(72, 40, 0), SMALL),
    ]
    batch = collate(examples, 32)
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape == (3, 3, 160, 160)
    assert batch.image_sizes.tolist() == [[96, 133], [133, 96], [160, 89]]
    assert batch.image_sizes.dtype == torch.int64
    for i, (example, targets) in enumerate(zip(examples, batch.targets, strict=True)):
        h, w = example.image.shape[:2]
        np.testing.assert_array_equal(batch.images[i, :, :h, :w].permute(1, 2, 0).numpy(), example.image)
        assert not batch.images[i, :, h:].any()
        assert not batch.images[i, :, :, w:].any()
        assert targets.masks.shape == (len(targets.boxes), 160, 160)
        assert torch.equal(targets.masks[:, :h, :w], example.targets.masks)
        assert targets.masks.sum() == example.targets.masks.sum()
    assert [len(targets.labels) for targets in batch.targets] == [2, 1, 0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"short_sides": ()}, "no short sides"),
        ({"short_sides": (96, 161)}, "short side 161 and long side 160"),
        ({"flip": 1.5}, "flip is 1.5"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(TrainingTransform(SMALL, (96,), 0.5), **settings)
