"""Images of an engine are resized on the GPU: what crosses, in which order, and what the batch then holds."""

from typing import Any

import numpy as np
import pytest

from condinst_deploy.contract import ImageGeometry
from condinst_deploy.imaging import resize_tables
from condinst_deploy.runtime.cuda import gpu_batches
from condinst_deploy.runtime.cuda.driver import CudaError
from condinst_deploy.runtime.cuda.gpu import Gpu, Stream
from condinst_deploy.runtime.cuda.gpu_batches import PinnedImage, PinnedInputs, PinnedWriter, WaitingImage, uploaded
from condinst_deploy.runtime.preprocessing.batch import network_inputs
from tests.support.models import noise_image
from tests.support.resize_on_double import resize_on_double
from tests.support.strict_driver import StrictDriver
from tests.support.strict_state import Kernels

KERNELS: Kernels = {"resize_kernel": resize_on_double}
SIZES = [((40, 60), (64, 96)), ((200, 30), (64, 10)), ((64, 96), (64, 96)), ((33, 77), (20, 47))]


def geometry_of(size: tuple[int, int], resized: tuple[int, int]) -> ImageGeometry:
    return ImageGeometry(size, resized, (64, 96))


def test_a_batch_holds_pillows_bytes_and_nothing_is_misused() -> None:
    driver = StrictDriver(kernels=KERNELS)
    gpu = Gpu(driver)
    writer = PinnedWriter(gpu)
    images = [noise_image(seed, *size) for seed, (size, _) in enumerate(SIZES)]
    geometries = [geometry_of(*sizes) for sizes in SIZES]
    with gpu.current():
        stream = Stream(gpu)
        for _ in range(3):  # memory is used again
            parts = [writer.from_image(*each) for each in zip(images, geometries, strict=True)]
            assert all(isinstance(part, PinnedImage) for part in parts)
            batch = uploaded(gpu, stream, parts, 8)
            want = network_inputs(images, geometries, 8)
            for ours, theirs in zip(batch.on_host(), want, strict=True):
                np.testing.assert_array_equal(ours, theirs, strict=True)
            alone = parts[1].on_host()
            np.testing.assert_array_equal(alone.images, want.images[1:2], strict=True)
            np.testing.assert_array_equal(alone.image_sizes, want.image_sizes[1:2], strict=True)
        del parts, batch
        stream.close()
    gpu.release_idle()
    assert driver.misuses == []
    assert (driver.allocated(), driver.allocated(pinned=True)) == (0, 0)


def test_only_the_decoded_image_crosses() -> None:
    writer = PinnedWriter(Gpu(StrictDriver(kernels=KERNELS)))
    part = writer.from_image(noise_image(0, 48, 64), ImageGeometry((48, 64), (800, 1067), (800, 1088)))
    assert isinstance(part, PinnedImage)
    assert part.layout.nbytes < 60_000  # 9,216 bytes of pixels and two tables, in place of 2.6 MB


def check_resized_by_pillow(writer: PinnedWriter) -> None:
    size, resized = SIZES[1]
    image, geometry = noise_image(1, *size), geometry_of(size, resized)
    part = writer.from_image(image, geometry)
    assert isinstance(part, PinnedInputs)
    for ours, theirs in zip(part.on_host(), network_inputs([image], [geometry]), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


def test_an_old_gpu_leaves_resizing_to_pillow() -> None:
    check_resized_by_pillow(PinnedWriter(Gpu(StrictDriver(capability=(7, 0)))))


def test_a_driver_that_does_not_read_the_ptx_leaves_resizing_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: StrictDriver, image: bytes) -> Any:
        raise CudaError("cuModuleLoadData", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION")

    monkeypatch.setattr(StrictDriver, "load_module", refuse)
    check_resized_by_pillow(PinnedWriter(Gpu(StrictDriver())))


def test_another_pillow_leaves_resizing_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_batches, "tables_agree_with_pillow", lambda: False)
    check_resized_by_pillow(PinnedWriter(Gpu(StrictDriver())))
    assert resize_tables.tables_agree_with_pillow()


def test_pinned_memory_is_bounded_however_many_images_wait() -> None:
    """Images without room stay where they are, and are copied one after the other as earlier copies end."""
    driver = StrictDriver(kernels=KERNELS)
    largest = 40_000
    gpu = Gpu(driver, most_pinned=2 * largest)
    writer = PinnedWriter(gpu)
    sizes = SIZES * 6
    images = [noise_image(seed, *size) for seed, (size, _) in enumerate(sizes)]
    geometries = [geometry_of(*each) for each in sizes]
    parts = [writer.from_image(*each) for each in zip(images, geometries, strict=True)]
    waiting = [part for part in parts if isinstance(part, WaitingImage)]
    assert 0 < len(waiting) < len(parts)
    np.testing.assert_array_equal(waiting[0].on_host().image_sizes, waiting[0].image_sizes)
    with gpu.current():
        stream = Stream(gpu)
        for start in range(0, len(parts), 8):
            batch = uploaded(gpu, stream, parts[start : start + 8], 8)
            parts[start : start + 8] = [waiting[0]] * 8  # these are no longer held
            want = network_inputs(images[start : start + 8], geometries[start : start + 8], 8)
            for ours, theirs in zip(batch.on_host(), want, strict=True):
                np.testing.assert_array_equal(ours, theirs, strict=True)
            assert driver.allocated(pinned=True) <= 2 * largest + 8 * 18_432  # and what `on_host` downloads
        del batch, parts
        stream.close()
    gpu.release_idle()
    assert driver.misuses == []
    assert (driver.allocated(), driver.allocated(pinned=True)) == (0, 0)
