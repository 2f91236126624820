"""CUDA graphs of the torch backend: which shapes have one, and that no run changes the outputs of another.

The capturer is a double. Its graph computes the same network in the memory that the graph holds, and fails where the
outputs of an earlier replay are still those of the graph itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from condinst_deploy.model.condinst import Instances
from condinst_deploy.runtime.hot_shapes import HotLimits
from condinst_deploy.runtime.torch_graphs import CudaCapturer, Graph, GraphedNetwork, captures_are_safe


class Network:
    """Outputs follow from the inputs alone."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, images: Tensor, sizes: Tensor) -> Instances:
        self.runs += 1
        means = images.float().mean(dim=(1, 2, 3))
        return Instances(sizes[:, 0] + 0, means[:, None], means + 1, sizes[:, 1] + 0, images.float() * 2)


class RecordedWork:
    """A graph: replaying writes the same tensors again."""

    def __init__(self, work: Callable[[], Instances], outputs: Instances, capturer: "DoubleCapturer") -> None:
        self._work, self._outputs, self._capturer = work, outputs, capturer
        self.replays = 0

    def replay(self) -> None:
        assert self._capturer.current, "a replay on another stream than the graphs'"
        self.replays += 1
        for ours, now in zip(self._outputs, self._work(), strict=True):
            ours.copy_(now)


class DoubleCapturer:
    """`Capturer` on a CPU."""

    def __init__(self, works: bool = True) -> None:
        self.works, self.current, self.waits = works, False, 0
        self.graphs: list[RecordedWork] = []

    def captured(self, work: Callable[[], Instances]) -> tuple[Graph, Instances] | None:
        assert self.current, "a capture on another stream than the graphs'"
        if not self.works:
            return None
        outputs = work()
        for tensor in outputs:
            tensor.zero_()  # a capture runs nothing
        self.graphs.append(RecordedWork(work, outputs, self))
        return self.graphs[-1], outputs

    @contextmanager
    def stream(self) -> Iterator[None]:
        assert not self.current
        self.current = True
        try:
            yield
        finally:
            self.current = False

    def wait(self) -> None:
        self.waits += 1


def batch(seed: int, images: int = 2, side: int = 4) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (images, 3, side, side), dtype=torch.uint8, generator=random)
    return pixels, torch.randint(1, side, (images, 2), dtype=torch.int32, generator=random)


def assert_right(outputs: Instances, inputs: tuple[Tensor, Tensor]) -> None:
    for ours, want in zip(outputs, Network()(*inputs), strict=True):
        torch.testing.assert_close(ours, want, rtol=0, atol=0)


def test_outputs_are_those_of_the_network_and_stay_as_they_are() -> None:
    capturer = DoubleCapturer()
    network = GraphedNetwork(Network(), capturer)
    inputs = [batch(seed) for seed in range(6)]
    outputs = [network(*each) for each in inputs]  # all runs before the first look
    for found, given in zip(outputs, inputs, strict=True):
        assert_right(found, given)
    assert [graph.replays for graph in capturer.graphs] == [5]  # from the second run on


def test_a_capture_that_fails_is_the_last_one() -> None:
    capturer = DoubleCapturer(works=False)
    network = GraphedNetwork(Network(), capturer)
    for seed in range(4):
        assert_right(network(*batch(seed)), batch(seed))
    capturer.works = True
    for seed in range(4):
        assert_right(network(*batch(seed, side=8)), batch(seed, side=8))
    assert capturer.graphs == []


class NetworkOfLittleMemory(Network):
    """No memory is left while a graph is made: its runs are those on the capturer's stream."""

    def __init__(self, capturer: DoubleCapturer) -> None:
        super().__init__()
        self.capturer, self.left = capturer, 0

    def __call__(self, images: Tensor, sizes: Tensor) -> Instances:
        if self.capturer.current:
            if self.left == 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.left -= 1
        return super().__call__(images, sizes)


@pytest.mark.parametrize("warm_ups", [0, 1])
def test_too_little_memory_for_a_graph_costs_the_graphs_alone(warm_ups: int) -> None:
    capturer = DoubleCapturer()
    network = NetworkOfLittleMemory(capturer)
    graphed = GraphedNetwork(network, capturer)
    network.left = 1000
    for seed in range(3):
        assert_right(graphed(*batch(seed)), batch(seed))
    network.left, waits = warm_ups, capturer.waits
    for seed in range(4):
        assert_right(graphed(*batch(seed, side=8)), batch(seed, side=8))
    assert capturer.waits > waits  # the graph of the first shape may still run when it is released
    assert len(capturer.graphs) == 1


class CudaGraphOfErrors:
    """`torch.cuda.CUDAGraph` whose calls are noted, and one of which fails."""

    def __init__(self, fails: str) -> None:
        self.fails, self.calls = fails, list[str]()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name == self.fails:
            raise RuntimeError(f"CUDA error in {name}")

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"
        self._called("begin")

    def capture_end(self) -> None:
        self._called("end")


def failing(error: BaseException | None) -> Instances:
    if error is not None:
        raise error
    return Network()(*batch(0))


@pytest.mark.parametrize(
    ("fails", "error", "calls"),
    [
        ("", None, ["begin", "end"]),
        ("begin", None, ["begin"]),
        ("end", None, ["begin", "end"]),
        ("", torch.OutOfMemoryError("CUDA out of memory"), ["begin", "end"]),
        ("end", RuntimeError("not permitted when stream is capturing"), ["begin", "end"]),
    ],
)
def test_a_capture_is_ended_however_it_fails(
    monkeypatch: pytest.MonkeyPatch, fails: str, error: BaseException | None, calls: list[str]
) -> None:
    graph = CudaGraphOfErrors(fails)
    capturer = capturer_of(graph, monkeypatch)
    found = capturer.captured(lambda: failing(error))
    assert (found is not None) is (not fails and error is None)
    assert graph.calls == calls


def test_an_interruption_ends_the_capture_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = CudaGraphOfErrors("")
    capturer = capturer_of(graph, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        capturer.captured(lambda: failing(KeyboardInterrupt()))
    assert graph.calls == ["begin", "end"]


def capturer_of(graph: CudaGraphOfErrors, monkeypatch: pytest.MonkeyPatch) -> CudaCapturer:
    monkeypatch.setattr("condinst_deploy.runtime.torch_graphs.own_stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
    return CudaCapturer(torch.device("cuda", 0))


def test_a_shape_gives_way_to_a_hotter_one_when_its_graph_does_not_run() -> None:
    capturer = DoubleCapturer()
    network = GraphedNetwork(Network(), capturer, HotLimits(most=1, warm_up=4, gap=0, pause=1, hotter=1.5))
    for seed in range(2):
        network(*batch(seed, side=4))
    waits = capturer.waits
    for seed in range(12):
        assert_right(network(*batch(seed, side=8)), batch(seed, side=8))
    assert len(capturer.graphs) == 2
    assert capturer.waits > waits
    assert_right(network(*batch(1, side=4)), batch(1, side=4))


def test_without_a_capturer_the_network_runs() -> None:
    network = Network()
    graphed = GraphedNetwork(network, None)
    for seed in range(3):
        assert_right(graphed(*batch(seed)), batch(seed))
    assert network.runs == 3


def test_a_closed_network_waits_for_its_graphs() -> None:
    capturer = DoubleCapturer()
    network = GraphedNetwork(Network(), capturer)
    for seed in range(3):
        network(*batch(seed))
    waits = capturer.waits
    network.close()
    assert capturer.waits == waits + 1


@pytest.mark.parametrize(
    ("version", "safe"), [("2.11.0", False), ("2.12.1+cu130", False), ("2.13.0", True), ("3.0.0a0", True), ("x", False)]
)
def test_graphs_need_a_pytorch_that_survives_a_failed_capture(version: str, safe: bool) -> None:
    assert captures_are_safe(version) is safe
