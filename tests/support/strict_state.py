"""State of the double of a GPU's driver: memory, streams, events and graphs, and the work that they hold."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Clock = dict[int, int]
"""Stream -> number of its works that are known to be over."""


@dataclass(frozen=True)
class Span:
    """Bytes that a work touches."""

    address: int
    size: int
    writes: bool


@dataclass(eq=False)
class Work:
    """Something that a stream executes."""

    what: str
    spans: tuple[Span, ...]
    execute: Callable[[], None] | None = None


@dataclass(eq=False)
class Access:
    """A span of a work in a stream."""

    span: Span
    stream: int
    number: int
    what: str


@dataclass(eq=False)
class Allocation:
    """Memory of the GPU, or pinned memory of the host. It stays after `free`, so that its use is found."""

    address: int
    size: int
    pinned: bool
    memory: Any  # keeps real memory; None: addresses alone
    freed: bool = False
    accesses: list[Access] = field(default_factory=list)


@dataclass(eq=False)
class StreamState:
    """A stream."""

    number: int
    clock: Clock  # of other streams' works, what this stream waits for
    issued: int = 0
    pending: deque[tuple[int, int, Work]] = field(default_factory=deque)  # global order, number, work
    captured: list[Work] | None = None
    capturer: int = 0  # thread
    destroyed: bool = False


@dataclass(eq=False)
class EventState:
    """An event; what it stands behind."""

    clock: Clock | None = None
    destroyed: bool = False


@dataclass(eq=False)
class GraphState:
    """A captured graph."""

    works: list[Work]
    last: tuple[int, int] | None = None  # stream and number of the last launch's end
    destroyed: bool = False


Launch = Callable[[tuple[int, int, int], list[int]], tuple[list[Span], Callable[[], None] | None]]
"""(Grid, values of the arguments) -> what a launch touches, and its implementation."""

Kernels = dict[str, Launch]
"""Name -> (grid, values of the arguments) -> what a launch touches, and its implementation."""


def join(clock: Clock, other: Clock) -> None:
    """Make a clock include another one."""
    for stream, number in other.items():
        clock[stream] = max(clock.get(stream, 0), number)
