"""Calls of the driver that fail once, in the middle of work: no misuse, no leak, and the next batch is right.

Each test makes the same work again and lets another call fail: memory, streams, events, graphs, copies, launches. The
strict doubles notice memory that goes back while work still uses it.
"""

import gc
import warnings
from collections.abc import Callable

import numpy as np
import pytest

from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.cuda.driver import OUT_OF_MEMORY, CudaError
from condinst_deploy.runtime.cuda.gpu import Gpu, Stream
from condinst_deploy.runtime.preprocessing.batch import network_inputs
from condinst_deploy.runtime.tensorrt.backend import TensorRtBackend
from tests.support.engine_manifests import engine_manifest, image_profile
from tests.support.engines_on_doubles import KERNELS_ON_DOUBLE
from tests.support.mask_batches import check, found_on, random_batch
from tests.support.models import noise_image
from tests.support.strict_driver import StrictDriver
from tests.support.strict_engine import StrictEngine

SMALL = Preprocessing(short_side=64, long_side=96)
SIZES = [(40, 60), (60, 40)]
BATCHES = 6
MANIFEST = engine_manifest(image_profile((1, 32, 32), (8, 128, 128)))
GEOMETRIES = [ImageGeometry.of(size, SMALL) for size in SIZES]
IMAGES = [noise_image(seed, *size) for seed, size in enumerate(SIZES)]
EXPECTED = [network_inputs([image] * 2, [geometry] * 2, 2) for image, geometry in zip(IMAGES, GEOMETRIES, strict=True)]


def served(driver: StrictDriver) -> tuple[Gpu, int]:
    """Batches of two sizes, captured and replayed; outputs are read when another batch is in flight."""
    gpu, failed = Gpu(driver), 0
    try:
        backend = loaded(driver, gpu)
    except BackendError:
        backend, failed = loaded(driver, gpu), 1
    waiting = []
    for number in range(BATCHES):
        image, geometry = IMAGES[number % 2], GEOMETRIES[number % 2]
        try:
            parts = [backend.input_writer.from_image(image, geometry) for _ in range(2)]
            inputs = backend.collate(parts)
            for ours, want in zip(inputs.on_host(), EXPECTED[number % 2], strict=True):
                np.testing.assert_array_equal(ours, want)
            waiting.append(backend.forward(inputs))
            if len(waiting) > 1:
                waiting.pop(0).on_host()
        except BackendError:
            failed += 1
    backend.close()
    return gpu, failed


def loaded(driver: StrictDriver, gpu: Gpu) -> TensorRtBackend:
    return TensorRtBackend(StrictEngine(driver, MANIFEST), MANIFEST, gpu)  # type: ignore[arg-type]


def pasted(driver: StrictDriver) -> tuple[Gpu, int]:
    """Runs of masks of three batches, which the check compares with the host's."""
    gpu, failed = Gpu(driver), 0
    for seed in (0, 1, 0):
        outputs, geometries = random_batch(seed)
        try:
            check(found_on(gpu, outputs, geometries), outputs, geometries)
        except BackendError:
            failed += 1
    return gpu, failed


def on_double(work: Callable[[StrictDriver], tuple[Gpu, int]], driver: StrictDriver) -> int:
    """How much of the work failed; everything went back to the driver."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the system gives this process no more pinned memory")
        gpu, failed = work(driver)
    gc.collect()
    gpu.release_idle()
    assert driver.misuses == []
    assert (driver.allocated(), driver.allocated(pinned=True)) == (0, 0)
    assert driver.streams_alive <= 1  # a side stream is kept for the next batch
    assert (driver.events_alive, driver.graphs_alive) == (0, 0)
    assert (gpu.memory.allocated, gpu.pinned.allocated) == (0, 0)
    return failed


GOES_ON = {"allocate_pinned", "begin_capture", "end_capture"}
"""Calls that work goes on without."""


@pytest.mark.parametrize(
    ("work", "call"),
    [
        *(
            (served, call)
            for call in (
                "load_module",
                "function",
                "create_stream",
                "create_event",
                "record_event",
                "wait_event",
                "event_done",
                "allocate",
                "allocate_pinned",
                "copy_to_device",
                "copy_to_host",
                "copy_on_device",
                "launch",
                "begin_capture",
                "end_capture",
                "launch_graph",
                "execute_async_v3",
            )
        ),
        *(
            (pasted, call)
            for call in (
                "load_module",
                "create_stream",
                "create_event",
                "wait_event",
                "allocate",
                "allocate_pinned",
                "copy_to_device",
                "copy_to_host",
                "launch",
            )
        ),
    ],
)
def test_a_call_that_fails_once_costs_its_batch_alone(
    work: Callable[[StrictDriver], tuple[Gpu, int]], call: str
) -> None:
    driver = StrictDriver(kernels=KERNELS_ON_DOUBLE)
    assert on_double(work, driver) == 0
    number = driver.calls[call]
    assert number > 0
    for which in {1, number // 2 + 1, number}:
        driver = StrictDriver(kernels=KERNELS_ON_DOUBLE)
        driver.refusals[call, which] = OUT_OF_MEMORY
        failed = on_double(work, driver)
        assert not driver.refusals
        # memory of the GPU is tried again when idle memory went back
        assert failed <= (call not in GOES_ON | {"allocate"})


def test_without_any_pinned_memory_images_cross_through_ordinary_memory() -> None:
    driver = StrictDriver(kernels=KERNELS_ON_DOUBLE)
    driver.refusals = {("allocate_pinned", which): "CUDA_ERROR_OPERATING_SYSTEM" for which in range(1, 1000)}
    with pytest.warns(UserWarning, match="no more pinned memory"):
        gpu, failed = served(driver)
    assert failed == 0
    assert driver.calls["allocate_pageable"] > 0
    gc.collect()
    gpu.release_idle()
    assert driver.allocated(pinned=True) == 0
    assert driver.misuses == []


def test_without_any_memory_of_the_host_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(self: StrictDriver, size: int) -> int:
        raise MemoryError

    monkeypatch.setattr(StrictDriver, "allocate_pageable", none)
    driver = StrictDriver()
    driver.refusals["allocate_pinned", 1] = OUT_OF_MEMORY
    gpu = Gpu(driver)
    with (
        gpu.current(),
        pytest.warns(UserWarning, match="no more pinned memory"),
        pytest.raises(BackendError, match="the host has no 3 MiB of memory left; use a smaller batch_size"),
    ):
        gpu.pinned.taken(3 << 20)


def test_memory_that_is_collected_together_with_its_event_is_still_waited_for() -> None:
    """An error keeps frames, and they keep it: blocks and events are then garbage of one cycle, in any order."""
    driver = StrictDriver()
    gpu = Gpu(driver)
    with gpu.current(), Stream(gpu) as first, Stream(gpu) as second:
        for begin in range(2):
            block = gpu.memory.taken(4096, first)
            first.fill(block.array((4096,), "uint8"), 1)
            event = first.record()
            block.used_until(event)
            cycle: list[object] = [block, event][:: 1 - 2 * begin]
            cycle.append(cycle)
            del block, event, cycle
            gc.collect()
            again = gpu.memory.taken(4096, second)
            second.fill(again.array((4096,), "uint8"), 2)
            again.used_until(second.record())
            del again
    assert driver.misuses == []
    assert driver.allocated() == 4096


def test_a_kernel_that_could_not_be_loaded_is_tried_again_and_leaves_no_module() -> None:
    driver = StrictDriver(kernels=KERNELS_ON_DOUBLE)
    gpu = Gpu(driver)
    driver.refusals = {("load_module", 1): OUT_OF_MEMORY, ("function", 1): OUT_OF_MEMORY}
    with gpu.current():
        for _ in range(2):
            with pytest.raises(CudaError, match="OUT_OF_MEMORY"):
                gpu.kernel("offsets")
        assert driver.modules_alive == 0
        assert gpu.kernel("offsets") is not None


def test_an_engine_that_refuses_an_address_is_an_error() -> None:
    driver = StrictDriver(kernels=KERNELS_ON_DOUBLE)
    engine = StrictEngine(driver, MANIFEST, refused="scores")
    with TensorRtBackend(engine, MANIFEST, Gpu(driver)) as backend:  # type: ignore[arg-type]
        parts = [backend.input_writer.from_image(IMAGES[0], GEOMETRIES[0])]
        with pytest.raises(BackendError, match="the engine refuses the memory of scores"):
            backend.forward(backend.collate(parts))
        del parts


def test_closing_after_an_error_that_stays_is_silent() -> None:
    driver = StrictDriver(kernels=KERNELS_ON_DOUBLE)
    with loaded(driver, Gpu(driver)) as backend:
        driver.fail_next = "CUDA_ERROR_ILLEGAL_ADDRESS"
        with pytest.raises(CudaError, match="ILLEGAL_ADDRESS"):
            backend.check_health()
