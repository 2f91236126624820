"""The network's input against Pillow, torch's antialiased resize and what mmdetection fed its network."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from condinst_deploy.contract import ImageGeometry, NetworkInputs, Preprocessing
from condinst_deploy.imaging.decode import rgb_from
from condinst_deploy.runtime.preprocessing.batch import network_inputs
from tests.support.models import GOLDEN, IMAGES, noise_image

UInt8 = npt.NDArray[np.uint8]

SMALL = Preprocessing(short_side=64, long_side=112)


def inputs_of(
    images: Sequence[UInt8], batch: int | None = None, canvas: tuple[int, int] | None = None
) -> tuple[NetworkInputs, list[ImageGeometry]]:
    geometries = [ImageGeometry.of((image.shape[0], image.shape[1]), SMALL, canvas) for image in images]
    return network_inputs(images, geometries, batch), geometries


def resized_by_pillow(image: UInt8, size: tuple[int, int]) -> UInt8:
    """`(3, h, w)`, one channel at a time."""
    planes = [Image.fromarray(image[..., c]).resize(size[::-1], Image.Resampling.BILINEAR) for c in range(3)]
    return np.stack([np.asarray(plane) for plane in planes])


def test_network_sees_what_mmdetection_saw() -> None:
    image = rgb_from(IMAGES / "astronaut.png")
    geometry = ImageGeometry.of((image.shape[0], image.shape[1]), Preprocessing())
    inputs = network_inputs([image], [geometry])
    with np.load(GOLDEN / "mmdet" / "astronaut_seed0.npz") as archive:
        bgr = archive["0.resized_bgr"]
        assert inputs.images.shape == tuple(archive["input_shape"])
        assert inputs.image_sizes.tolist() == [archive["0.img_shape"].tolist()]
    assert bgr.dtype == inputs.images.dtype == np.uint8
    assert np.array_equal(inputs.images[0, :, : bgr.shape[1], : bgr.shape[2]], bgr[::-1])


@pytest.mark.parametrize(
    "size", [(40, 60), (60, 40), (64, 64), (300, 201), (64, 100), (1, 1), (1, 40), (200, 3), (129, 64)]
)
def test_image_is_resized_as_pillow_and_torch_do(size: tuple[int, int]) -> None:
    image = noise_image(3, *size)
    inputs, (geometry,) = inputs_of([image])
    height, width = geometry.resized
    resized = inputs.images[0, :, :height, :width]
    assert np.array_equal(resized, resized_by_pillow(image, geometry.resized))
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].double(), geometry.resized, mode="bilinear", antialias=True
    )
    assert np.abs(resized - theirs[0].numpy()).max() <= 1


def test_types_and_layout() -> None:
    inputs, _ = inputs_of([noise_image(0, 40, 60)])
    assert inputs.images.dtype == np.uint8
    assert inputs.image_sizes.dtype == np.int32
    assert inputs.images.shape == (1, 3, 64, 96)
    assert inputs.images.flags.c_contiguous
    assert inputs.image_sizes.tolist() == [[64, 96]]


@pytest.mark.parametrize("size", [(40, 61), (61, 40), (200, 3), (20, 90)])
def test_padding_is_black_and_lies_at_the_bottom_and_right(size: tuple[int, int]) -> None:
    inputs, (geometry,) = inputs_of([np.full((*size, 3), 255, dtype=np.uint8)])
    assert inputs.images.shape == (1, 3, *geometry.padded)
    assert geometry.padded != geometry.resized
    rows, columns = np.mgrid[: geometry.padded[0], : geometry.padded[1]]
    inside = (rows < geometry.resized[0]) & (columns < geometry.resized[1])
    assert np.array_equal(inputs.images[0], np.broadcast_to(inside * 255, (3, *inside.shape)))
    assert inputs.image_sizes.tolist() == [list(geometry.resized)]


def test_batch_is_padded_to_the_highest_and_the_widest() -> None:
    images = [noise_image(i, *size) for i, size in enumerate([(40, 60), (60, 40), (50, 50)])]
    inputs, geometries = inputs_of(images)
    assert inputs.images.shape == (3, 3, 96, 96)
    assert inputs.image_sizes.tolist() == [[64, 96], [96, 64], [64, 64]]
    for pixels, image, geometry in zip(inputs.images, images, geometries, strict=True):
        height, width = geometry.resized
        assert np.array_equal(pixels[:, :height, :width], resized_by_pillow(image, geometry.resized))
        assert not pixels[:, height:].any()
        assert not pixels[:, :, width:].any()


@pytest.mark.parametrize("count", [1, 2, 4])
def test_fixed_batch_is_filled_with_blank_images(count: int) -> None:
    images = [noise_image(i, 40, 70) for i in range(count)]
    inputs, geometries = inputs_of(images, batch=4)
    alone, _ = inputs_of(images)
    assert inputs.images.shape == (4, 3, 64, 128)
    assert np.array_equal(inputs.images[:count], alone.images)
    assert np.array_equal(inputs.image_sizes[:count], alone.image_sizes)
    assert not inputs.images[count:].any()
    assert inputs.image_sizes[count:].tolist() == [[64, 128]] * (4 - count)
    assert all(geometry.resized == (64, 112) for geometry in geometries)


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (1, 50)])
def test_canvas_of_a_fixed_model_is_filled_from_the_top_left(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 7, dtype=np.uint8)
    inputs, (geometry,) = inputs_of([image], canvas=(64, 96))
    assert inputs.images.shape == (1, 3, 64, 96)
    assert (inputs.images == 7).sum() == 3 * geometry.resized[0] * geometry.resized[1]
    assert inputs.images[0, :, 0, 0].tolist() == [7, 7, 7]


def test_images_are_left_alone() -> None:
    image = noise_image(0, 64, 64)
    inputs, _ = inputs_of([image])
    inputs.images[...] = 0
    assert np.array_equal(image, noise_image(0, 64, 64))


def test_every_image_needs_its_sizes() -> None:
    image = noise_image(0, 40, 60)
    with pytest.raises(ValueError, match="shorter"):
        network_inputs([image, image], [ImageGeometry.of((40, 60), SMALL)])
