"""Streams of PyTorch that no two parts of this toolkit share.

`torch.cuda.Stream()` hands out 32 streams in turn, for each priority. If a network is captured on a stream that another
part uses, too, that part's work lands in the graph.
"""

import weakref
from collections.abc import Callable
from threading import Lock
from typing import Any

import torch

POOL = 32
"""Streams of one priority that PyTorch hands out in turn."""

_TAKEN: set[tuple[int, int]] = set()
_LOCK = Lock()


def own_stream(
    device: torch.device, priority: int = 0, make: Callable[..., Any] = torch.cuda.Stream
) -> torch.cuda.Stream:
    """Return a stream that this pool gives to no other caller while it lives.

    Where all of a GPU's streams are taken, two parts share one, as they would without this function.

    Args:
        device: the GPU.
        priority: -1 runs before other work that waits.
        make: the next stream of PyTorch's pool.
    """
    with _LOCK:
        for _ in range(POOL):
            stream = make(device, priority=priority)
            key = (device.index or 0, stream.cuda_stream)
            if key not in _TAKEN:
                _TAKEN.add(key)
                weakref.finalize(stream, _TAKEN.discard, key)
                break
    found: torch.cuda.Stream = stream
    return found
