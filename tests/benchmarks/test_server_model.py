"""The model of a server: which part limits it."""

from benchmarks.server_model import Estimates, limits, targets_of

PARTS = {"decode_ms": 10.0, "copy_ms": 3.0, "masks_ms": 3.0, "up_bytes": 1e6, "down_bytes": 2e6}


def test_each_part_has_its_limit() -> None:
    estimates = Estimates(bus_gb_s=10.0, network_ms=1.5, gpu_memory_gb_s=2.0, other_ms=0.5)
    assert list(limits(PARTS, estimates).values()) == [1000.0, 10_000.0, 1e3 / 3.0, 5000.0, 1000.0]


def test_the_lowest_limit_is_named() -> None:
    (*_, lowest) = targets_of({"640x480": PARTS | {"decode_ms": 100.0}})
    assert lowest.name.startswith("640x480: the lowest, decoding")
    assert lowest.measured == 126.2
