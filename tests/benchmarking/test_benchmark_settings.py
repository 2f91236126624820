import os

import pytest

from condinst_deploy.benchmarking.benchmark_settings import Settings, cores_for, numbers_from, size_from
from condinst_deploy.errors import ConfigError


def test_lists_and_sizes_as_they_are_typed() -> None:
    assert numbers_from("1,2, 4", "--batch") == (1, 2, 4)
    assert size_from("1280x720") == (720, 1280)


@pytest.mark.parametrize("text", ["", "1,,2", "one", "1.5"])
def test_what_is_no_list_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--batch is '.*'; expected whole numbers"):
        numbers_from(text, "--batch")


@pytest.mark.parametrize("text", ["1280", "x720", "1280x", "-1x5", "1280x720x3", f"{'9' * 5000}x7"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--size is '.*'; expected WIDTHxHEIGHT"):
        size_from(text)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"batches": (1, 0)}, "batch is 1, 0;"),
        ({"concurrency": ()}, "concurrency is empty; expected"),
        ({"size": (0, 5)}, "size is 0, 5;"),
        ({"repeat": 0}, "repeat is 0; expected at least 1"),
        ({"batches": (1, 99_999_999_999)}, "batch is 1, 99999999999; expected numbers of at least 1 and at most 1024"),
        ({"concurrency": (10**9,)}, "concurrency is 1000000000; expected"),
        ({"size": (999_999_999, 1)}, "size is 999999999, 1; expected numbers of at least 1 and at most 65535"),
        ({"size": (65_535, 65_535)}, "size is 65535x65535; expected at most 268435456 pixels"),
        ({"repeat": 10**5000}, "repeat is a whole number of 16,610 bits; expected at least 1 and at most"),
        ({"warmup": -1}, "warmup is -1; expected at least 0"),
        ({"seed": -1}, "seed is -1; expected at least 0"),
        ({"pixels": "draft"}, "pixels is 'draft'; expected one of exact, fast, cuda"),
    ],
)
def test_ranges(wrong: dict[str, int], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        Settings(**wrong)  # type: ignore[arg-type]


def test_cores_are_those_that_the_process_may_use() -> None:
    usable = sorted(os.sched_getaffinity(0))
    assert cores_for(None) == tuple(usable)
    assert cores_for(1) == (usable[0],)
    for wrong in (0, len(usable) + 1):
        with pytest.raises(ConfigError, match=f"--threads is {wrong}; this process may use {len(usable)} cores"):
            cores_for(wrong)
