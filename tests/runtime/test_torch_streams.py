"""Streams that PyTorch hands out in turn, on a double of its pool."""

import gc
from itertools import count
from typing import Any

import torch

from condinst_deploy.runtime.torch_streams import POOL, own_stream

DEVICE = torch.device("cuda", 7)  # no other test has it


class PoolOfStreams:
    """Gives handles in turn, as PyTorch's pool does."""

    def __init__(self) -> None:
        self._turn = count()

    def __call__(self, device: torch.device, priority: int) -> Any:
        return PooledStream(1000 * (1 - priority) + next(self._turn) % POOL)


class PooledStream:
    def __init__(self, handle: int) -> None:
        self.cuda_stream = handle


def test_no_two_parts_get_one_stream_until_all_are_taken() -> None:
    make = PoolOfStreams()
    for _ in range(3):  # they come back when nothing refers to them
        streams = [own_stream(DEVICE, make=make) for _ in range(20)]
        assert len({stream.cuda_stream for stream in streams}) == 20
        make(DEVICE, 0)  # somebody else takes one
        del streams
        gc.collect()
    streams = [own_stream(DEVICE, make=make) for _ in range(POOL)]
    assert len({stream.cuda_stream for stream in streams}) == POOL
    assert own_stream(DEVICE, make=make).cuda_stream in {stream.cuda_stream for stream in streams}
    assert own_stream(DEVICE, -1, make).cuda_stream >= 2000


def test_a_stream_that_a_part_has_is_left_out_when_its_turn_comes_again() -> None:
    make = PoolOfStreams()
    held = own_stream(DEVICE, make=make)
    for _ in range(POOL - 1):  # others take the rest of the turn
        make(DEVICE, 0)
    found = own_stream(DEVICE, make=make)
    assert found.cuda_stream != held.cuda_stream
    del found, held
    gc.collect()
