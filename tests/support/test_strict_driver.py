"""The double of the driver finds each kind of misuse, and lets right use pass."""

import ctypes
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from condinst_deploy.runtime.cuda.driver import CudaError
from tests.support.strict_calls import MisuseError
from tests.support.strict_driver import StrictDriver
from tests.support.strict_state import Span

SIZE = 4096


@pytest.fixture
def driver() -> Iterator[StrictDriver]:
    made = StrictDriver()
    made.push()
    yield made
    made.pop()


def written(driver: StrictDriver, value: int) -> int:
    """Pinned memory of this value."""
    address = driver.allocate_pinned(SIZE)
    ctypes.memset(address, value, SIZE)
    return address


def value_at(address: int) -> int:
    (value,) = set(ctypes.string_at(address, SIZE))
    return value


def test_right_use_gives_the_bytes_but_not_before_somebody_waits(driver: StrictDriver) -> None:
    source, target = written(driver, 7), written(driver, 1)
    there, elsewhere = driver.allocate(SIZE), driver.allocate(SIZE)
    up, down = (driver.create_stream(urgent=False) for _ in range(2))
    driver.copy_to_device(there, source, SIZE, up)
    event = driver.create_event()
    driver.record_event(event, up)
    driver.wait_event(down, event)
    driver.copy_on_device(elsewhere, there, SIZE, down)
    driver.copy_to_host(target, elsewhere, SIZE, down)
    assert not driver.event_done(event)
    assert value_at(target) == 1
    driver.synchronize_stream(down)
    assert value_at(target) == 7
    assert driver.event_done(event)
    for address in (there, elsewhere):
        driver.free(address)
    assert driver.allocated() == 0
    assert driver.misuses == []


def graph_of(driver: StrictDriver, stream: int, target: int, source: int) -> int:
    driver.begin_capture(stream)
    driver.copy_on_device(target, source, SIZE, stream)
    return driver.end_capture(stream)


def test_a_graph_runs_what_was_captured_as_often_as_it_is_launched(driver: StrictDriver) -> None:
    a, b, stream = driver.allocate(SIZE), driver.allocate(SIZE), driver.create_stream(urgent=False)
    graph = graph_of(driver, stream, b, a)
    target = written(driver, 1)
    for value in (5, 6):
        driver.fill(a, value, SIZE, stream)
        driver.launch_graph(graph, stream)
        driver.copy_to_host(target, b, SIZE, stream)
        driver.synchronize_stream(stream)
        assert value_at(target) == value
    driver.destroy_graph(graph)
    assert driver.graphs_alive == 0


Use = Callable[[StrictDriver, int, int, int, int], None]
"""(driver, two addresses, two streams)."""


def use_after_free(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.free(a)
    driver.copy_on_device(b, a, SIZE, s)


def free_in_flight(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.fill(a, 1, SIZE, s)
    driver.free(a)


def free_twice(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.free(a)
    driver.free(a)


def beyond_the_end(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.fill(a + 1, 1, SIZE, s)


def read_without_waiting(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.fill(a, 1, SIZE, s)
    driver.copy_on_device(b, a, SIZE, t)


def write_without_waiting(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.copy_on_device(b, a, SIZE, s)
    driver.fill(a, 1, SIZE, t)


def event_before_the_work(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    event = driver.create_event()
    driver.record_event(event, s)
    driver.fill(a, 1, SIZE, s)
    driver.wait_event(t, event)
    driver.copy_on_device(b, a, SIZE, t)


def source_in_flight(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    source = written(driver, 1)
    driver.copy_to_device(a, source, SIZE, s)
    ctypes.memset(source, 2, SIZE)
    driver.synchronize_stream(s)


def host_for_device(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.copy_to_device(a, b, SIZE, s)


def wait_in_a_capture(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.begin_capture(s)
    driver.synchronize_stream(t)


def allocation_in_a_capture(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.begin_capture(s)
    driver.allocate(SIZE)


def foreign_work_in_a_capture(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.begin_capture(s)
    errors: list[MisuseError] = []

    def other() -> None:
        driver.push()
        try:
            driver.fill(a, 1, SIZE, s)
        except MisuseError as e:
            errors.append(e)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    raise errors[0]


def memory_of_a_graph(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    graph_of(driver, s, b, a)
    driver.free(a)


def graph_in_flight(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    graph = graph_of(driver, s, b, a)
    driver.launch_graph(graph, s)
    driver.destroy_graph(graph)


def event_that_is_gone(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    event = driver.create_event()
    driver.record_event(event, s)
    driver.destroy_event(event)
    driver.wait_event(t, event)


def event_without_a_record(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.wait_event(t, driver.create_event())


def stream_with_work(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.fill(a, 1, SIZE, s)
    driver.destroy_stream(s)


def stream_that_is_gone(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.destroy_stream(s)
    driver.fill(a, 1, SIZE, s)


def another_context(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    driver.pop()
    try:
        driver.fill(a, 1, SIZE, s)
    finally:
        driver.push()


def unknown_kernel(driver: StrictDriver, a: int, b: int, s: int, t: int) -> None:
    function = driver.function(driver.load_module(b"some_kernel\0"), "some_kernel")
    driver.launch(function, (1, 1, 1), 128, 0, s, [(a, "pointer")])


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (use_after_free, "uses memory that was freed"),
        (free_in_flight, "memory is freed that fill still uses"),
        (free_twice, "was freed before"),
        (beyond_the_end, "leave every allocation"),
        (read_without_waiting, "reads memory that fill writes in another stream, and does not wait"),
        (write_without_waiting, "writes memory that copy_on_device reads in another stream, and does not wait"),
        (event_before_the_work, "reads memory that fill writes in another stream, and does not wait"),
        (source_in_flight, "written while the copy was in flight"),
        (host_for_device, "takes memory of the host for memory of the GPU"),
        (wait_in_a_capture, "waits for a stream while it captures"),
        (allocation_in_a_capture, "allocates memory while it captures"),
        (foreign_work_in_a_capture, "of another thread lands in a graph"),
        (memory_of_a_graph, "memory is freed that a graph uses"),
        (graph_in_flight, "a graph is destroyed that runs"),
        (event_that_is_gone, "an event is used that was destroyed"),
        (event_without_a_record, "an event is waited for that was not recorded"),
        (stream_with_work, "a stream is destroyed that has work"),
        (stream_that_is_gone, "does not exist, or was destroyed"),
        (another_context, "in a thread where the GPU is not current"),
        (unknown_kernel, "some_kernel is launched, and the double does not know it"),
    ],
)
def test_misuse_fails(driver: StrictDriver, use: Use, message: str) -> None:
    a, b = driver.allocate(SIZE), driver.allocate(SIZE)
    s, t = (driver.create_stream(urgent=False) for _ in range(2))
    with pytest.raises(MisuseError, match=message):
        use(driver, a, b, s, t)
    assert len(driver.misuses) == 1


def test_an_error_that_stays_ends_all_calls(driver: StrictDriver) -> None:
    driver.fail_next = "CUDA_ERROR_LAUNCH_FAILED"
    for _ in range(2):
        with pytest.raises(CudaError) as raised:
            driver.allocate(SIZE)
        assert raised.value.sticky
    assert driver.failure == "CUDA_ERROR_LAUNCH_FAILED"


def test_a_kernel_with_an_implementation_is_run_in_order() -> None:
    def doubled(grid: tuple[int, int, int], values: list[int]) -> tuple[list[Span], Callable[[], None]]:
        address = values[0]

        def run() -> None:
            array = np.ctypeslib.as_array((ctypes.c_uint8 * SIZE).from_address(address))
            array *= 2

        return [Span(address, SIZE, True)], run

    driver = StrictDriver(kernels={"doubled": doubled})
    driver.push()
    there, host, stream = driver.allocate(SIZE), written(driver, 1), driver.create_stream(urgent=False)
    driver.fill(there, 21, SIZE, stream)
    function = driver.function(driver.load_module(b"\x7fELF doubled"), "doubled")
    driver.launch(function, (1, 1, 1), 128, 0, stream, [(there, "pointer")])
    driver.copy_to_host(host, there, SIZE, stream)
    driver.synchronize_stream(stream)
    assert value_at(host) == 42
