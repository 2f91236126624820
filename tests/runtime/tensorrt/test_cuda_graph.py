"""When work is launched, captured and replayed: the order of it all with a made-up graph, the work itself on a GPU."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any

import pytest
import torch

from condinst_deploy.runtime.tensorrt.cuda_graph import CAPTURING, TRIES, ReplayedRun

CAPTURED = ["capture", "launch", "replay"]
FAILED = ["capture", "launch", "launch"]


class Record:
    """Notes what is called; so many captures are broken before one succeeds."""

    def __init__(self, broken: int) -> None:
        self.calls: list[str] = []
        self._broken = broken

    def launch(self) -> bool:
        self.calls.append("launch")
        return True

    def replay(self) -> None:
        self.calls.append("replay")

    @contextmanager
    def graph(self, *_: Any, **__: Any) -> Iterator[None]:
        assert CAPTURING.locked()
        self.calls.append("capture")
        yield
        self._broken -= 1
        if self._broken >= 0:
            raise RuntimeError("operation failed due to a previous error during capture")


def calls_of(
    runs: int, monkeypatch: pytest.MonkeyPatch, broken: int = 0, capturable: tuple[bool, ...] = ()
) -> list[list[str]]:
    """What each of so many runs calls."""
    record, answers, taken = Record(broken), iter(capturable), []
    monkeypatch.setattr(torch.cuda, "graph", record.graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: record)
    run = ReplayedRun(record.launch, lambda: next(answers, True), None)  # type: ignore[arg-type]
    for _ in range(runs):
        record.calls = []
        assert run.run()
        assert not CAPTURING.locked()
        assert run.captured == ("replay" in record.calls)
        taken.append(record.calls)
    return taken


def test_the_second_run_is_captured_and_later_ones_are_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls_of(4, monkeypatch) == [["launch"], CAPTURED, ["replay"], ["replay"]]


def test_a_broken_capture_is_tried_again_by_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls_of(5, monkeypatch, broken=2) == [["launch"], FAILED, FAILED, CAPTURED, ["replay"]]


def test_what_the_library_does_not_allow_yet_is_tried_later(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls_of(4, monkeypatch, capturable=(False,)) == [["launch"], ["launch"], CAPTURED, ["replay"]]


def test_after_some_tries_every_run_is_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = calls_of(TRIES + 3, monkeypatch, broken=1000)
    assert calls == [["launch"], *[FAILED] * TRIES, ["launch"], ["launch"]]


@pytest.mark.gpu
def test_threads_that_capture_at_once_all_get_their_graphs() -> None:
    threads, runs = 8, 30
    together = Barrier(threads)

    def counted(_: int) -> tuple[bool, int]:
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            number = torch.zeros(1 << 20, dtype=torch.int64, device="cuda")

            def launch() -> bool:
                number.add_(1)
                return True

            run = ReplayedRun(launch, lambda: True, stream)
            for _ in range(runs):
                together.wait()
                assert run.run()
            stream.synchronize()
            (value,) = number.unique().tolist()
            return run.captured, value

    with ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(counted, range(threads))) == [(True, runs)] * threads
