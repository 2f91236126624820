"""What is made of the times of the input's and the stream's benchmarks."""

from benchmarks import input as input_benchmark
from benchmarks import stream
from benchmarks.bars import Bar


def test_shares_are_of_the_same_round() -> None:
    # the machine got twice as slow in the second round, for both
    assert stream.paired({"network": [1.0, 2.0, 1.0], "folder": [1.25, 2.5, 1.0]}, "folder") == 0.8


def test_a_folders_throughput_is_asked_to_be_nearly_the_networks() -> None:
    names = (stream.NETWORK, stream.FOLDER, stream.SERIAL, stream.COMMAND)
    shares = dict(zip(names, (1.0, 0.95, 0.8, 0.89), strict=True))
    rows = {name: {"share_of_the_networks_throughput": share} for name, share in shares.items()}
    bars = stream.bars_of({"batch 1": rows}, [1])
    assert bars[0] == Bar("folder / network alone, batch 1", 0.95, "", "at least 0.9", True)
    assert [(bar.measured, bar.met) for bar in bars[1:]] == [(0.89, None), (0.8, None)]


def test_ours_is_asked_to_be_as_fast_as_the_fastest_with_the_same_pixels() -> None:
    result = {
        "fastest_equal": "Pillow",
        "candidates": {"Pillow": {"speed_of_ours": 0.85, "speed_of_ours_by_cpu": 0.95}},
    }
    bars = input_benchmark.bars_of(dict.fromkeys(input_benchmark.ORIGINALS, result))
    assert [bar.met for bar in bars] == [False, None, None, None]
    assert bars[1] == Bar("1080p, processor time: speed of ours / Pillow", 0.95, "")
