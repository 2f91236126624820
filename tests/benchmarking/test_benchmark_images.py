from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condinst_deploy.benchmarking.benchmark_images import MOST, Batches, generated_images, given_images
from condinst_deploy.errors import ImageError


def test_generated_images_are_the_same_for_the_same_seed_and_differ_from_each_other() -> None:
    images, again, others = (generated_images((40, 70), seed, count=2) for seed in (0, 0, 1))
    assert [image.shape for image in images] == [(40, 70, 3)] * 2
    assert all(image.dtype == np.uint8 for image in images)
    np.testing.assert_array_equal(images, again)
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], others[0])
    assert all(image.std() > 10 for image in images)


def test_the_first_images_of_a_folder_are_taken(tmp_path: Path) -> None:
    for i in range(MOST + 2):
        Image.new("RGB", (2, 2)).save(tmp_path / f"{i:03d}.png")
    assert given_images([str(tmp_path)]) == [tmp_path / f"{i:03d}.png" for i in range(MOST)]
    assert given_images([]) == []


def test_a_pattern_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nothing matches"):
        given_images([str(tmp_path / "*.jpg")])


def test_a_batch_has_one_padded_shape_and_every_image_leads_one() -> None:
    wide, tall = (64, 96), (96, 64)
    a, b, c, d = (Path(name) for name in "abcd")
    batches = Batches([a, b, c, d], [wide, tall, wide, wide])
    assert [batches.batch(i, 1) for i in range(5)] == [[a], [b], [c], [d], [a]]
    assert [batches.batch(i, 2) for i in range(4)] == [[a, c], [b, b], [c, d], [d, a]]
    assert batches.batch(2, 5) == [c, d, a, c, d]
    assert batches.first_of_shapes == [0, 1]
