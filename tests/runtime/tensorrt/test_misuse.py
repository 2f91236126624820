"""Faults put into the runtime's real classes: the strict doubles fail for each of them.

A stream of batches goes through collation, network and download, two batches in flight, on the doubles of driver and
engine. Without a fault nothing is found; so a test that passes on the doubles says that the fault is not there.
"""

from collections.abc import Callable
from typing import Any

import pytest

from condinst_deploy.contract import ImageGeometry, Preprocessing
from condinst_deploy.runtime.cuda.gpu import Gpu, Stream
from condinst_deploy.runtime.cuda.memory_pools import Block, Memory, MemoryPool
from condinst_deploy.runtime.tensorrt.backend import TensorRtBackend
from condinst_deploy.runtime.tensorrt.context_pool import ContextPool
from condinst_deploy.runtime.tensorrt.execution_context import ExecutionContext
from tests.support.engine_manifests import engine_manifest, image_profile
from tests.support.engines_on_doubles import KERNELS_ON_DOUBLE
from tests.support.models import noise_image
from tests.support.strict_calls import MisuseError
from tests.support.strict_driver import StrictDriver
from tests.support.strict_engine import StrictEngine

SMALL = Preprocessing(short_side=64, long_side=96)
SIZES = [(40, 60), (60, 40), (64, 64)]
IN_FLIGHT = 2


def stream_of_batches(driver: StrictDriver) -> None:
    """Twelve batches of three sizes; outputs are read when two more batches are in flight."""
    manifest = engine_manifest(image_profile((1, 32, 32), (8, 128, 128)))
    gpu = Gpu(driver)
    backend = TensorRtBackend(StrictEngine(driver, manifest), manifest, gpu)  # type: ignore[arg-type]
    waiting: list[Any] = []
    for number in range(12):
        size = SIZES[number % len(SIZES)]
        geometry = ImageGeometry.of(size, SMALL)
        parts = [backend.input_writer.from_image(noise_image(number + i, *size), geometry) for i in range(2)]
        waiting.append(backend.forward(backend.collate(parts)))
        del parts
        if len(waiting) > IN_FLIGHT:
            waiting.pop(0).on_host()
    backend.close()  # while the last two run
    waiting.clear()
    gpu.release_idle()
    if driver.misuses:  # also where an error was lost in `__del__`
        raise MisuseError("; ".join(driver.misuses))


def test_without_a_fault_nothing_is_found() -> None:
    driver = StrictDriver(kernels=KERNELS_ON_DOUBLE)
    stream_of_batches(driver)
    assert driver.graphs_alive == 0
    assert (driver.allocated(), driver.allocated(pinned=True)) == (0, 0)


Patch = Callable[[pytest.MonkeyPatch, StrictDriver], None]


def free_while_in_use(patch: pytest.MonkeyPatch, driver: StrictDriver) -> None:
    """Memory goes back to the driver when the last reference ends, whatever the GPU still does."""
    pinned, allocate_pinned = set[int](), driver.allocate_pinned

    def allocate(size: int) -> int:
        pinned.add(address := allocate_pinned(size))
        return address

    def give_back(pool: MemoryPool, memory: Memory) -> None:
        with Gpu(driver).current():
            (driver.free_host if memory.address in pinned else driver.free)(memory.address)

    patch.setattr(driver, "allocate_pinned", allocate)
    patch.setattr(MemoryPool, "give_back", give_back)


def use_after_free(patch: pytest.MonkeyPatch, driver: StrictDriver) -> None:
    """Activation memory is freed between binding and run."""
    plain = ExecutionContext.bind

    def bind(context: ExecutionContext, activations: Block, tensors: Any) -> None:
        plain(context, activations, tensors)
        driver.run_all()
        driver.free(activations.address)

    patch.setattr(ExecutionContext, "bind", bind)


def write_into_a_buffer_in_flight(patch: pytest.MonkeyPatch, driver: StrictDriver) -> None:
    """Memory is handed out again without a wait for its last use."""
    patch.setattr(Block, "used_until", lambda block, event: None)


def two_parts_on_one_stream(patch: pytest.MonkeyPatch, driver: StrictDriver) -> None:
    """Uploads and network get the same stream, as a pool of streams may hand it out."""
    plain, first = driver.create_stream, list[int]()

    def create(*, urgent: bool) -> int:
        if urgent:
            return plain(urgent=True)
        if not first:
            first.append(plain(urgent=False))
        return first[0]

    patch.setattr(driver, "create_stream", create)


def no_wait_between_streams(patch: pytest.MonkeyPatch, driver: StrictDriver) -> None:
    patch.setattr(Stream, "wait", lambda stream, event: None)


def a_graph_and_the_profile_share_a_context(patch: pytest.MonkeyPatch, driver: StrictDriver) -> None:
    patch.setattr(ContextPool, "for_capture", ContextPool.of_profile)


def a_graph_that_is_closed_while_it_runs(patch: pytest.MonkeyPatch, driver: StrictDriver) -> None:
    patch.setattr(Stream, "synchronize", lambda stream: None)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # errors in `Block.__del__`
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (free_while_in_use, "memory is freed that .* still uses"),
        (use_after_free, "uses memory that was freed"),
        (write_into_a_buffer_in_flight, "written while the copy was in flight|does not wait for it"),
        (two_parts_on_one_stream, "does not exist, or was destroyed"),
        (no_wait_between_streams, "in another stream, and does not wait for it"),
        (a_graph_and_the_profile_share_a_context, "a context is reshaped that a graph was captured from"),
        (a_graph_that_is_closed_while_it_runs, "a graph is destroyed that runs"),
    ],
)
def test_every_fault_fails(fault: Patch, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = StrictDriver(kernels=KERNELS_ON_DOUBLE)
    with monkeypatch.context() as patch:
        fault(patch, driver)
        with pytest.raises(MisuseError, match=message):
            stream_of_batches(driver)
