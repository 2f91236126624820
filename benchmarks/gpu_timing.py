"""Times of work on a GPU: medians between CUDA events, with inputs that are not in the cache.

A kernel of 10 us cannot be timed launch by launch: the GPU is idle between an event and a launch for as long. So many
launches are captured in one CUDA graph, each with inputs of its own, and the graph's time is divided by their number.
"""

from collections.abc import Callable, Sequence
from math import ceil
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

WARM_UP, RUNS = 10, 100

CACHES = 3
"""Times the size of the L2 cache that the inputs of one graph have together."""

MOST_COPIES = 400

MOST_MILLISECONDS = 2000
"""Of all replays of one graph."""


def milliseconds(call: Callable[..., Any], inputs: Sequence[tuple[Any, ...]], runs: int = RUNS) -> dict[str, float]:
    """Median and 99th percentile of `call(*inputs[i])`, i going round. For work of a millisecond or more."""
    for i in range(min(WARM_UP, runs)):
        call(*inputs[i % len(inputs)])
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(runs)]
    torch.cuda.synchronize()
    for i, (start, stop) in enumerate(events):
        start.record()
        call(*inputs[i % len(inputs)])
        stop.record()
    torch.cuda.synchronize()
    times = [start.elapsed_time(stop) for start, stop in events]
    return {"median_ms": round(median(times), 5), "p99_ms": round(float(np.percentile(times, 99)), 5)}


def kernel_milliseconds(
    call: Callable[..., Any], make: Callable[[int], tuple[Any, ...]], input_bytes: int | None = None
) -> dict[str, float]:
    """Time of one launch among many in a graph, its inputs not in the cache.

    Args:
        call: what is timed.
        make: seed -> arguments.
        input_bytes: of the inputs of one call; None: of the tensors among its arguments.
    """
    first = make(0)
    if input_bytes is None:
        input_bytes = sum(each.nbytes for each in first if isinstance(each, Tensor))
    copies = copies_for(input_bytes)
    inputs = [first, *(make(seed) for seed in range(1, copies))]
    replay = captured(lambda: [call(*arguments) for arguments in inputs])
    found = milliseconds(replay, [()], replays_for(milliseconds(replay, [()], 3)["median_ms"]))
    each = {name: round(value / copies, 6) for name, value in found.items()}
    return each | {"launches_in_a_graph": copies}


def replays_for(graph_ms: float) -> int:
    """Replays of a graph that together take about two seconds: a large graph needs no more to be timed."""
    return max(5, min(RUNS, int(MOST_MILLISECONDS / max(graph_ms, 1e-3))))


def copies_for(input_bytes: int) -> int:
    """Inputs of this size that together are larger than the cache."""
    cache = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    return max(8, min(MOST_COPIES, ceil(CACHES * cache / max(1, input_bytes))))


def captured(call: Callable[[], Any]) -> Callable[[], None]:
    """A CUDA graph of a call: what is timed is the GPU, not Python's launches."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measured_peak() -> float:
    """TFLOP/s of a float16 product of 8192 x 8192 matrices of random numbers."""
    a, b = (torch.randn(8192, 8192, device="cuda").half() for _ in range(2))
    return 2 * 8192**3 / milliseconds(torch.matmul, [(a, b)], 30)["median_ms"] / 1e9


def measured_bandwidth() -> float:
    """GB/s of a copy on the GPU, bytes read and written counted."""
    a = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    return 2 * a.nbytes / milliseconds(b.copy_, [(a,)], 20)["median_ms"] / 1e6
