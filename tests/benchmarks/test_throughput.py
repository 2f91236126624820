"""Results that the input's and the stream's benchmarks compute from times."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import input as input_benchmark
from benchmarks import stream
from benchmarks.targets import Target
from benchmarks.timing import Turns, ratio


def test_ratios_are_of_the_same_round() -> None:
    # the machine got twice as slow in the second round, for both
    assert ratio([1.0, 2.0, 1.0], [1.25, 2.5, 1.0]) == 0.8


def test_functions_take_turns_forwards_and_backwards() -> None:
    turns = Turns({"a": lambda: 1, "b": lambda: 2})
    assert [found for found in turns.rounds(3)] == [
        (0, "a", 1),
        (0, "b", 2),
        (1, "b", 2),
        (1, "a", 1),
        (2, "a", 1),
        (2, "b", 2),
    ]
    assert {name: len(seconds) for name, seconds in (turns.wall | turns.cpu).items()} == {"a": 3, "b": 3}


def test_a_folders_throughput_is_asked_to_be_nearly_the_networks() -> None:
    names = (stream.NETWORK, stream.FOLDER, stream.SERIAL, stream.COMMAND)
    shares = dict(zip(names, (1.0, 0.95, 0.8, 0.89), strict=True))
    rows = {name: {"share_of_the_networks_throughput": share} for name, share in shares.items()}
    targets = stream.targets_of({"batch 1": rows}, [1])
    assert targets[0] == Target("folder / network alone, batch 1", 0.95, "", "at least 0.9", True)
    assert [(target.measured, target.met) for target in targets[1:]] == [(0.89, None), (0.8, None)]


def test_a_larger_batch_goes_without_the_way_one_after_the_other() -> None:
    share = {"share_of_the_networks_throughput": 1.0}
    rows = {name: share for name in (stream.NETWORK, stream.FOLDER, stream.COMMAND)}
    names = [target.name for target in stream.targets_of({"batch 2": rows}, [2])]
    assert names == ["folder / network alone, batch 2", "condinst-predict / network alone, batch 2"]


def test_ways_that_find_different_numbers_are_an_error() -> None:
    stream.check_found({stream.NETWORK: 4, stream.FOLDER: 400, stream.COMMAND: 400})
    with pytest.raises(RuntimeError, match="'folder': 400, 'condinst-predict': 399"):
        stream.check_found({stream.NETWORK: 4, stream.FOLDER: 400, stream.COMMAND: 399})


class Counting:
    """Ways that say what they were run on."""

    batch_size = 2

    def __init__(self) -> None:
        self.runs: list[tuple[str, int]] = []

    def ways(self, predictor: "Counting", paths: list[Path], folder: Path) -> dict[str, Callable[[], int]]:
        def way(name: str) -> Callable[[], int]:
            def run() -> int:
                self.runs.append((name, len(paths)))
                return len(paths)

            return run

        return {name: way(name) for name in (stream.NETWORK, stream.FOLDER, stream.SERIAL, stream.COMMAND)}


def test_every_way_runs_a_batch_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting()
    monkeypatch.setattr(stream, "ways", counting.ways)
    predictor: Any = counting
    paths = [Path(str(i)) for i in range(4)]
    rows = stream.measured(predictor, paths, Path(), 3, (stream.SERIAL,))
    timed = [stream.NETWORK, stream.FOLDER, stream.COMMAND]
    assert counting.runs[:3] == [(name, 2) for name in timed]
    assert counting.runs[3:] == [(name, 4) for name in timed + timed[::-1] + timed]
    assert [len(row["seconds"]) for row in rows.values()] == [3, 3, 3]


def test_ours_is_asked_to_be_as_fast_as_the_fastest_with_the_same_pixels() -> None:
    result = {
        "fastest_equal": "Pillow",
        "candidates": {"Pillow": {"speed_of_ours": 0.85, "speed_of_ours_by_cpu": 0.95}},
    }
    targets = input_benchmark.targets_of(dict.fromkeys(input_benchmark.ORIGINALS, result))
    assert [target.met for target in targets] == [False, None, None, None]
    assert targets[1] == Target("1080p, processor time: speed of ours / Pillow", 0.95, "")
