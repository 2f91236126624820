"""Pools of memory: what is used again, when, and what is given back."""

import gc

import numpy as np
import pytest

from condinst_deploy.errors import BackendError
from condinst_deploy.runtime.cuda.gpu import Gpu, Stream
from condinst_deploy.runtime.cuda.memory_pools import MOST_IDLE, SMALLEST, host_array, size_of_block
from tests.support.strict_driver import StrictDriver


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 5000, 4096, 2_534_400, (1 << 30) + 1])
def test_blocks_are_an_eighth_larger_at_most(size: int) -> None:
    block = size_of_block(size)
    assert block >= max(size, SMALLEST)
    assert block % SMALLEST == 0
    assert block <= max(size * 1.125 + SMALLEST, SMALLEST)
    assert size_of_block(block) == block


def test_memory_is_used_again_by_the_stream_that_waits_for_its_last_use() -> None:
    driver = StrictDriver()
    gpu = Gpu(driver)
    with gpu.current():
        first, second = Stream(gpu), Stream(gpu)
        block = gpu.memory.taken(4096, first)
        address = block.address
        first.fill(block.array((4096,), "uint8"), 1)
        block.used_until(first.record())
        del block
        again = gpu.memory.taken(4096, second)
        assert again.address == address
        second.fill(again.array((4096,), "uint8"), 2)  # the double fails if nobody waits
        first.close()
        second.close()
    assert driver.misuses == []


def test_memory_whose_use_was_not_noted_is_found_by_the_double() -> None:
    driver = StrictDriver()
    gpu = Gpu(driver)
    with gpu.current():
        first, second = Stream(gpu), Stream(gpu)
        block = gpu.memory.taken(4096, first)
        first.fill(block.array((4096,), "uint8"), 1)
        del block
        again = gpu.memory.taken(4096, second)
        with pytest.raises(AssertionError, match="does not wait for it"):
            second.fill(again.array((4096,), "uint8"), 2)


def test_the_host_gets_pinned_memory_that_nothing_uses() -> None:
    driver = StrictDriver()
    gpu = Gpu(driver)
    with gpu.current(), Stream(gpu) as stream:
        there = gpu.memory.taken(4096, stream).array((4096,), "uint8")
        host = gpu.pinned.taken(4096)
        address = host.address
        host_array(host)[:] = 5
        stream.upload(there, host)
        host.used_until(stream.record())
        del host
        busy = gpu.pinned.taken(4096)
        assert busy.address != address  # the copy has not run
        stream.synchronize()
        assert gpu.pinned.taken(4096).address == address
    assert driver.misuses == []


def test_the_host_waits_where_too_many_blocks_wait() -> None:
    driver = StrictDriver()
    gpu = Gpu(driver)
    with gpu.current(), Stream(gpu) as stream:
        there = gpu.memory.taken(4096, stream).array((4096,), "uint8")
        for _ in range(4 * MOST_IDLE):
            host = gpu.pinned.taken(4096)
            host_array(host)[:] = 5
            stream.upload(there, host)
            host.used_until(stream.record())
            del host
        assert driver.allocated(pinned=True) <= (MOST_IDLE + 1) * 4096
    assert driver.misuses == []


def test_views_keep_pinned_memory() -> None:
    gpu = Gpu(StrictDriver())
    with gpu.current():
        view = host_array(gpu.pinned.taken(4096))
        view[:] = 3
        gc.collect()
        other = gpu.pinned.taken(4096)
        assert other.address != view.ctypes.data
        assert np.all(view == 3)


def test_idle_memory_is_given_back_when_there_is_too_little() -> None:
    driver = StrictDriver(memory=10_000)
    gpu = Gpu(driver)
    with gpu.current(), Stream(gpu) as stream:
        block = gpu.memory.taken(8192, stream)
        stream.fill(block.array((8192,), "uint8"), 1)
        block.used_until(stream.record())
        del block
        held = gpu.memory.taken(4096, stream)  # of another size, and there is no room beside the first
        assert driver.allocated() == gpu.memory.allocated == 4096
        with pytest.raises(BackendError, match="use a smaller batch_size or smaller images"):
            gpu.memory.taken(8192, stream)
        del held
        assert gpu.memory.taken(8192, stream).size == 8192
    assert driver.misuses == []


def test_an_array_must_fit_its_block() -> None:
    gpu = Gpu(StrictDriver())
    with gpu.current(), Stream(gpu) as stream:
        block = gpu.memory.taken(1024, stream)
        array = block.array((4, 64), "float32")
        assert array.rows(1, 3).address == array.address + 256
        assert array.rows(1, 3).nbytes == 512
        with pytest.raises(ValueError, match="leave a block"):
            block.array((4, 65), "float32")
        with pytest.raises(ValueError, match="do not fill"):
            stream.copy(array, array.rows(0, 2))


def test_memory_above_the_limit_is_waited_for_or_freed_before_there_is_more() -> None:
    driver = StrictDriver()
    gpu = Gpu(driver, most_pinned=4 * 4096)
    with gpu.current(), Stream(gpu) as stream:
        there = gpu.memory.taken(4096, stream).array((4096,), "uint8")
        for _ in range(20):
            host = gpu.pinned.taken(4096)
            host_array(host)[:] = 5
            stream.upload(there, host)
            host.used_until(stream.record())
            del host
        assert driver.allocated(pinned=True) == 4 * 4096  # the host waited for the oldest copy
        large = gpu.pinned.taken(3 * 4096)  # and freed idle memory of another size
        assert driver.allocated(pinned=True) == 4 * 4096
        assert not gpu.pinned.has_room(2 * 4096)
        beyond = gpu.pinned.taken(2 * 4096)  # all is in use: a batch must not wait for itself
        assert driver.allocated(pinned=True) == 5 * 4096
        del large, beyond
        assert gpu.pinned.has_room(4 * 4096)
        assert not gpu.pinned.has_room(5 * 4096)
    assert driver.misuses == []
