"""Times on a CPU: functions that take turns, medians, and ratios of times that were measured one after the other."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

Clock = Callable[[], float]


def spent(call: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    """Seconds of a call."""
    started = clock()
    call()
    return clock() - started


def median_ms(call: Callable[[], object], rounds: int, clock: Clock = time.process_time) -> float:
    """Median milliseconds of a call, without rounding. The first call of `rounds + 1` warms up."""
    call()
    return 1e3 * median(spent(call, clock) for _ in range(rounds))


def ratio(seconds: Sequence[float], others: Sequence[float]) -> float:
    """Median of the quotients of times that were measured in the same round."""
    return median(own / other for own, other in zip(seconds, others, strict=True))


@dataclass
class Turns:
    """Times of functions that take turns, so that all of them meet the same machine."""

    ways: Mapping[str, Callable[[], Any]]
    wall: dict[str, list[float]] = field(default_factory=dict)  # seconds
    cpu: dict[str, list[float]] = field(default_factory=dict)  # seconds of all threads of this process

    def rounds(self, count: int) -> Iterator[tuple[int, str, Any]]:
        """Run every function in each round, forwards and backwards in turn; yield round, name and result."""
        for number in range(count):
            for name in list(self.ways)[:: 1 if number % 2 == 0 else -1]:
                wall, cpu = time.perf_counter(), time.process_time()
                result = self.ways[name]()
                self.wall.setdefault(name, []).append(time.perf_counter() - wall)
                self.cpu.setdefault(name, []).append(time.process_time() - cpu)
                yield number, name, result
