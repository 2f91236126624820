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
from condinst_deploy.runtime.torch_graphs import Graph, GraphedNetwork, captures_are_safe


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
        yield
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
