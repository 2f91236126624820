"""The ways to prepare an image, compared with each other."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from condinst_deploy.cli import command as cli
from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.errors import BackendError, ConfigError, ImageError
from condinst_deploy.imaging.decode import Jpeg, rgb_from
from condinst_deploy.runtime.host_inputs import blank_inputs
from condinst_deploy.runtime.preprocessing import tensor
from condinst_deploy.runtime.preprocessing.batch import HostWriter, network_inputs, stacked
from condinst_deploy.runtime.preprocessing.factory import preparation
from condinst_deploy.runtime.preprocessing.jpeg_batches import JpegBatches, jpegs_on
from condinst_deploy.runtime.preprocessing.types import InputOptions, InputWriter, Pixels, Prepare
from tests.support.models import IMAGES, noise_image

SMALL = Preprocessing(short_side=64, long_side=112)
SIZES = [(40, 60), (60, 40), (64, 64), (300, 201), (1, 1), (1, 40), (200, 3)]


def geometry_of(image: Any) -> ImageGeometry:
    return ImageGeometry.of(image.shape[:2], SMALL)


def way(pixels: Any, device: str = "cpu", writer: InputWriter | None = None) -> Prepare:
    return preparation(pixels, geometry_of, writer or HostWriter(), device)


@pytest.mark.parametrize("size", SIZES)
def test_exact_pixels_are_those_of_the_backends(size: tuple[int, int]) -> None:
    image = noise_image(3, *size)
    expected = network_inputs([image], [geometry_of(image)])
    found = way("exact")(image, "x")
    assert found.geometry == geometry_of(image)
    np.testing.assert_array_equal(found.image, image)
    for ours, theirs in zip(found.inputs.on_host(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("pixels", ["exact", "fast"])
def test_an_image_that_is_not_asked_for_is_not_held(pixels: Any) -> None:
    image = noise_image(3, 40, 60)
    without = preparation(pixels, geometry_of, HostWriter(), "cpu", keep_images=False)(image, "x")
    held = way(pixels)(image, "x")
    assert without.image is None
    assert held.image is not None
    assert without.geometry == held.geometry
    np.testing.assert_array_equal(without.inputs.on_host().images, held.inputs.on_host().images)


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_an_image_that_a_gpu_decoded_crosses_only_if_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(noise_image(3, 40, 60)).save(path)

    class Decoder(JpegBatches):
        def __init__(self) -> None:
            pass

        def decoded(self, jpeg: Jpeg) -> torch.Tensor:
            return jpegs_on(torch.device("cpu"), [jpeg.content])[0]

    held, without = (
        tensor.TensorPreparation(geometry_of, "cpu", HostWriter(), keep_images=keeps, jpegs=Decoder())(path, "a")
        for keeps in (True, False)
    )
    assert without.image is None
    assert held.image is not None
    assert held.image.shape == (40, 60, 3)
    assert held.geometry == without.geometry
    np.testing.assert_array_equal(held.inputs.on_host().images, without.inputs.on_host().images)


def assert_close(found: Any, exact: Any, within: float) -> None:
    assert found.geometry == exact.geometry
    for ours, theirs in zip(found.inputs, exact.inputs, strict=True):
        assert (ours.dtype, ours.shape, ours.flags.c_contiguous) == (theirs.dtype, theirs.shape, True)
    np.testing.assert_array_equal(found.inputs.image_sizes, exact.inputs.image_sizes)
    height, width = exact.geometry.resized
    difference = np.abs(found.inputs.images.astype(int) - exact.inputs.images)
    assert difference[..., height:, :].max(initial=0) == difference[..., width:].max(initial=0) == 0
    assert difference.max() <= within


@pytest.mark.parametrize("size", SIZES)
def test_fast_pixels_differ_by_one_at_most(size: tuple[int, int]) -> None:
    image = noise_image(3, *size)
    found = way("fast")(image, "x")
    assert_close(found, way("exact")(image, "x"), within=1)
    np.testing.assert_array_equal(found.image, image)


def test_nearly_all_fast_pixels_of_a_photograph_are_exact() -> None:
    exact, fast = (way(pixels)(IMAGES / "coffee.png", "x").inputs.on_host().images for pixels in ("exact", "fast"))
    assert (exact != fast).mean() < 0.005


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")  # of torchvision's, see `jpegs_on`
def test_a_jpeg_is_decoded_where_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(noise_image(0, 50, 70)).save(path, quality=90)
    (pixels,) = jpegs_on(torch.device("cpu"), [path.read_bytes()])
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), rgb_from(path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU that PyTorch can use")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(BackendError, match=r"pixels='cuda' .* PyTorch sees none; use pixels='exact' or 'fast'"):
        way("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["coffee", "astronaut"])
def test_a_gpus_pixels_are_close(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.open(IMAGES / f"{name}.png").convert("RGB").save(path, quality=95)
    for source, within in ((IMAGES / f"{name}.png", 1), (path, 12)):
        assert_close(way("cuda", "cuda")(source, "x"), way("exact")(source, "x"), within)


@pytest.mark.gpu
def test_a_damaged_jpeg_is_refused_on_a_gpu_as_on_the_cpu(tmp_path: Path) -> None:
    Image.fromarray(noise_image(0, 50, 70)).save(tmp_path / "x.jpg")
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:500])
    with pytest.raises(ImageError, match="truncated"):
        way("cuda", "cuda")(tmp_path / "x.jpg", "x")


@pytest.mark.parametrize("batch", [None, 3, 5])
def test_stacked_inputs_are_those_of_a_batch(batch: int | None) -> None:
    images = [noise_image(seed, 40, 60 - seed) for seed in range(3)]
    geometries = [geometry_of(image) for image in images]
    assert len({geometry.padded for geometry in geometries}) == 1
    parts = [network_inputs([image], [geometry]) for image, geometry in zip(images, geometries, strict=True)]
    for ours, theirs in zip(stacked(parts, batch), network_inputs(images, geometries, batch), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


def test_a_full_batch_is_not_copied() -> None:
    inputs = blank_inputs(2, 32, 64)
    assert stacked([inputs], 2) is inputs


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pixels": "draft"}, "pixels is 'draft'; expected one of exact, fast, cuda"),
        ({"workers": 0}, "workers is 0; expected a whole number from 1 to 1024"),
    ],
)
def test_options_that_there_are_not_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        InputOptions(**options)


def test_the_command_offers_what_there_is() -> None:
    assert {way.value for way in cli.Pixels} == set(get_args(Pixels))
