"""Inputs as tensors: the same values as on the host, written and put together without needless copies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from condinst_deploy.contract import ImageGeometry, NetworkInputs, NetworkOutputs, Preprocessing
from condinst_deploy.imaging.resize import resized_image
from condinst_deploy.runtime.device_inputs import DecodedInputs, DeviceWriter, collated, inputs_on
from condinst_deploy.runtime.predictor import Predictor
from condinst_deploy.runtime.preprocessing.batch import HostWriter, network_inputs, stacked
from condinst_deploy.runtime.preprocessing.types import Inputs
from condinst_deploy.runtime.torch_backend import TorchBackend
from tests.support.gpu_work import occupy
from tests.support.models import noise_image
from tests.support.predictions import MIXED, assert_equal

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SMALL = Preprocessing(short_side=64, long_side=112)
SIZES = [(40, 60), (60, 40), (64, 64), (1, 40), (200, 3)]


def image_of(seed: int, size: tuple[int, int]) -> tuple[Any, ImageGeometry]:
    return noise_image(seed, *size), ImageGeometry.of(size, SMALL)


def assert_same(found: Inputs, expected: NetworkInputs) -> None:
    for ours, theirs in zip(found.on_host(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@pytest.mark.parametrize("size", SIZES)
def test_a_tensor_has_the_values_of_the_host_form(size: tuple[int, int]) -> None:
    image, geometry = image_of(0, size)
    expected = HostWriter().from_image(image, geometry)
    as_tensor = torch.from_numpy(resized_image(image, geometry.resized).copy()).permute(2, 0, 1)
    torch.empty(1, 3, *geometry.padded, dtype=torch.uint8).fill_(255)  # freed memory that is not zero
    for writer in (HostWriter(), DeviceWriter(CPU)):
        assert_same(writer.from_image(image, geometry), expected)
        assert_same(writer.from_tensor(as_tensor, geometry), expected)
    assert_same(expected, network_inputs([noise_image(0, *size)], [geometry]))


@pytest.mark.parametrize("batch", [None, 3, 5])
def test_a_batch_of_tensors_has_the_values_of_a_batch_on_the_host(batch: int | None) -> None:
    images = [image_of(seed, (40, 60 - seed)) for seed in range(3)]
    expected = stacked([HostWriter().from_image(*image) for image in images], batch)
    found = collated([DeviceWriter(CPU).from_image(*image) for image in images], batch, CPU)
    assert_same(found, expected)
    assert len(found.images) == (batch or 3)
    assert found.ready is None
    assert found.device == CPU


def test_one_image_that_is_a_whole_batch_is_not_copied() -> None:
    part = DeviceWriter(CPU).from_image(*image_of(0, (40, 60)))
    assert collated([part], None, CPU) is part
    assert collated([part], 1, CPU) is part
    assert collated([part], 2, CPU) is not part
    assert inputs_on(part, CPU) is part


def test_arrays_become_tensors_of_the_same_memory_on_a_cpu() -> None:
    arrays = HostWriter().from_image(*image_of(0, (40, 60)))
    found = inputs_on(arrays, CPU)
    assert_same(found, arrays)
    assert found.images.data_ptr() == arrays.images.ctypes.data


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_backend_gives_the_same_for_arrays_and_tensors(batch_size: int, slim_checkpoint: Path) -> None:
    """A stream runs on tensors that the backend's writer made; here the same images go through arrays."""
    with Predictor(slim_checkpoint, device="cpu", batch_size=batch_size) as predictor:
        backend = predictor.backend
        assert isinstance(backend, TorchBackend)
        for start in (0, 2):
            images = [noise_image(seed, 128, 200) for seed in range(start, start + batch_size)]
            geometries = [backend.geometry(image) for image in images]
            outputs = backend.forward(network_inputs(images, geometries))
            assert isinstance(outputs, NetworkOutputs)
            for found, expected in zip(predictor(images), backend.postprocess(outputs, geometries), strict=True):
                assert len(expected) > 0
                assert_equal(found, expected)


def test_a_batch_may_have_arrays_and_tensors(slim_checkpoint: Path) -> None:
    images = [image_of(seed, (40, 60)) for seed in range(2)]
    with TorchBackend.load(slim_checkpoint, "cpu") as backend:
        mixed = backend.collate([HostWriter().from_image(*images[0]), backend.input_writer.from_image(*images[1])])
    assert_same(mixed, stacked([HostWriter().from_image(*image) for image in images]))


@pytest.mark.gpu
def test_images_cross_to_the_gpu_from_pinned_memory_and_stay_there() -> None:
    gpu = torch.device("cuda", torch.cuda.current_device())
    image, geometry = image_of(0, (40, 60))
    expected = HostWriter().from_image(image, geometry)
    from_host = DeviceWriter(gpu).from_image(image, geometry)
    assert isinstance(from_host, DecodedInputs)
    assert from_host.memory is not None
    assert from_host.memory.is_pinned()
    as_tensor = torch.from_numpy(resized_image(image, geometry.resized).copy()).permute(2, 0, 1)
    on_gpu = DeviceWriter(gpu).from_tensor(as_tensor.to(gpu), geometry)
    assert (on_gpu.device, on_gpu.ready is None) == (gpu, False)
    stream = torch.cuda.Stream(gpu)
    batch = collated([from_host, on_gpu], 3, gpu, stream)
    assert (batch.device, batch.image_sizes.device) == (gpu, gpu)
    assert_same(batch, stacked([expected, expected], 3))


@pytest.mark.gpu
def test_inputs_can_be_taken_on_another_stream() -> None:
    """The upload stream is busy. The stream that reads waits for it; the host does not."""
    gpu = torch.device("cuda", torch.cuda.current_device())
    image, geometry = image_of(0, (40, 60))
    upload, reader = torch.cuda.Stream(gpu), torch.cuda.Stream(gpu)
    part = DeviceWriter(gpu).from_image(image, geometry)
    with torch.cuda.stream(upload):
        occupy(50_000_000)
    batch = collated([part, part], None, gpu, upload)
    with torch.cuda.stream(reader):
        images, _ = batch.taken()
        found = images + 0
    reader.synchronize()
    np.testing.assert_array_equal(found[1].cpu().numpy(), part.on_host().images[0])


@pytest.mark.gpu
@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_gpu_stream_gives_nearly_what_the_cpu_gives(batch_size: int, slim_checkpoint: Path) -> None:
    with Predictor(slim_checkpoint, device="cpu") as cpu:
        expected = cpu(MIXED)
    with Predictor(slim_checkpoint, device="cuda", batch_size=batch_size) as gpu:
        for found, want in zip(gpu(MIXED), expected, strict=True):
            assert len(found) == len(want) > 0
            np.testing.assert_allclose(found.boxes, want.boxes, atol=0.1)
            np.testing.assert_allclose(found.scores, want.scores, atol=1e-3)
