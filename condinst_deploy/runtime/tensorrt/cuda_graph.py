"""Work on one stream that becomes a CUDA graph: launched at first, replayed from then on."""

from collections.abc import Callable
from threading import Lock

import torch

CAPTURING = Lock()
"""Held while a run is captured. Where a capture begins, PyTorch waits for the whole device, and that breaks whatever
another thread is capturing."""

TRIES = 5
"""Runs that try to capture. What broke one capture may be gone by the next; a layer that synchronises stays."""


class ReplayedRun:
    """The same work again and again, in one thread at a time; its addresses stay."""

    def __init__(self, launch: Callable[[], bool], capturable: Callable[[], bool], stream: torch.cuda.Stream) -> None:
        """Take what runs.

        Args:
            launch: gives the work to `stream`, which must be the current one, and says whether it could.
            capturable: whether the library allows a capture now; while it still compiles something it may not.
            stream: where the work runs.
        """
        self._launch, self._capturable, self._stream = launch, capturable, stream
        self._graph: torch.cuda.CUDAGraph | None = None
        self._runs = 0

    @property
    def captured(self) -> bool:
        """Whether runs are replays."""
        return self._graph is not None

    def run(self) -> bool:
        """Give the work to the stream: the first run sets libraries up, a later one captures where that is possible.

        Returns:
            Whether it could be launched.
        """
        self._runs += 1
        if self._graph is None and 1 < self._runs <= 1 + TRIES:
            self._graph = self._capture()
        if self._graph is None:
            return self._launch()
        self._graph.replay()
        return True

    def release(self) -> None:
        """Let go of the graph, which holds addresses; the stream must be idle."""
        self._graph = None

    def _capture(self) -> torch.cuda.CUDAGraph | None:
        """The work as a graph; None where the library or a layer does not allow it, or another thread broke it."""
        if not self._capturable():
            return None
        graph = torch.cuda.CUDAGraph()
        try:
            with CAPTURING, torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                done = self._launch()
        except RuntimeError:  # a layer, or another thread, that synchronises ends the capture
            return None
        return graph if done else None
