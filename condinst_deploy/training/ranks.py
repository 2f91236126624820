"""The processes that train together: what they agree on, and what happens when one of them is lost."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from condinst_deploy.errors import CondInstError, ConfigError, DistributedError
from condinst_deploy.shown_text import first_line

T = TypeVar("T")

LOST = (
    "gloo",
    "nccl",
    "processgroup",
    "connection closed",
    "connection reset",
    "connection refused",
    "broken pipe",
    "timed out waiting",
    "timeout",
)
"""Words of the errors that the communication libraries raise, in lower case; they have no type of their own."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together. The default is a process alone."""

    rank: int = 0
    size: int = 1
    local: int = 0  # among the processes of this machine: the number of its GPU

    @property
    def first(self) -> bool:
        """Return whether this process writes files and messages."""
        return self.rank == 0

    def average(self, x: Tensor) -> Tensor:
        """Mean of a tensor over the processes.

        Raises:
            DistributedError: a process is lost.
        """
        if self.size == 1:
            return x
        total = x.clone()
        with self.together():
            dist.all_reduce(total)
        return total / self.size

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks; each gets the list. Values travel by pickle.

        Raises:
            DistributedError: a process is lost.
        """
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self.together():
            dist.all_gather_object(values, value)
        return values

    def any(self, flags: tuple[int, ...]) -> tuple[int, ...]:
        """The largest of each flag over the processes; the cheapest way to agree.

        Raises:
            DistributedError: a process is lost.
        """
        if self.size == 1:
            return flags
        largest = torch.tensor(flags, dtype=torch.int64)
        with self.together():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return tuple(largest.tolist())

    def agree(self, problem: CondInstError | None) -> None:
        """Fail together: raises this process's problem, or one that names the process that has one.

        Raises:
            CondInstError: `problem`.
            DistributedError: another process has a problem, or is lost.
        """
        if self.size > 1 and self.any((int(problem is not None),)) != (0,):
            for rank, message in enumerate(self.gathered(None if problem is None else str(problem))):
                if message is not None and problem is None:
                    raise DistributedError(f"process {rank} of {self.size} stopped: {message}")
        if problem is not None:
            raise problem

    def on_first(self, function: Callable[[], T]) -> T:
        """Call a function in the first process alone; all get its result, or fail with it.

        Raises:
            CondInstError: what the function raised, in the first process.
            DistributedError: what it raised, in the others; or a process is lost.
        """
        if self.size == 1:
            return function()
        result, problem = None, None
        if self.first:
            try:
                result = function()
            except CondInstError as e:
                problem = e
        self.agree(problem)
        values = [result]
        with self.together():
            dist.broadcast_object_list(values)
        return values[0]  # type: ignore[return-value]

    def in_each(self, function: Callable[[], T]) -> T:
        """Call a function in every process; where it fails in one, all fail.

        Raises:
            CondInstError: what the function raised here.
            DistributedError: what it raised in another process; or a process is lost.
        """
        result, problem = [], None
        try:
            result.append(function())
        except DistributedError:  # the others know, or cannot be reached
            raise
        except CondInstError as e:
            problem = e
        self.agree(problem)
        return result[0]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turn the libraries' errors about a lost process into one.

        Raises:
            DistributedError: a process ended, or did not answer in time.
        """
        try:
            yield
        except RuntimeError as e:
            if self.size == 1 or not is_of_communication(e):
                raise
            raise DistributedError(
                f"another of the {self.size} processes ended or did not answer in time"
                f" ({first_line(e)}); look at its messages, then go on with --resume"
            ) from e

    def abandon(self) -> None:
        """Give up the connections after a process was lost, so that nothing waits for it any more."""
        if self.size > 1 and dist.is_initialized():
            with suppress(Exception):  # whatever a broken connection raises
                world = dist.group.WORLD
                if world is not None:
                    world.abort()


ALONE = Ranks()
"""One process."""


def is_of_communication(error: RuntimeError) -> bool:
    """Return whether a library raised this because a process is lost."""
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in LOST)


def ranks_from_environment() -> Ranks:
    """Return the ranks that torchrun sets: RANK, WORLD_SIZE and LOCAL_RANK. Without them, one process.

    Raises:
        ConfigError: one is missing, or no number in its range.
    """
    if "WORLD_SIZE" not in os.environ:
        return Ranks()
    numbers = {}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        value = os.environ.get(name, "0" if name == "LOCAL_RANK" else "")
        if not value.isascii() or not value.isdigit():
            raise ConfigError(f"{name} is {value!r} in the environment; start several processes with torchrun")
        numbers[name] = int(value)
    rank, size = numbers["RANK"], numbers["WORLD_SIZE"]
    if not 0 <= rank < size:
        raise ConfigError(f"RANK is {rank} and WORLD_SIZE {size} in the environment; expected 0 <= RANK < WORLD_SIZE")
    return Ranks(rank, size, numbers["LOCAL_RANK"])


def device_of(ranks: Ranks, device: torch.device) -> torch.device:
    """The device of this process: each of several has a GPU of its own.

    Raises:
        ConfigError: one GPU was named for several processes, or there are too few.
    """
    if device.type != "cuda" or ranks.size == 1:
        return device
    if device.index is not None:
        raise ConfigError(f"device is {device}; {ranks.size} processes have a GPU each: give cuda, without a number")
    if ranks.local >= torch.cuda.device_count():
        raise ConfigError(
            f"this machine has {torch.cuda.device_count()} GPUs for process {ranks.local} of it, counted from 0;"
            " start as many processes as GPUs (torchrun --nproc-per-node)"
        )
    own = torch.device("cuda", ranks.local)
    torch.cuda.set_device(own)
    return own


@contextmanager
def connected(ranks: Ranks, device: torch.device, timeout: float, meeting: str = "env://") -> Iterator[None]:
    """Connect the processes until the end of the block. One process alone needs no connections.

    What processes agree on travels through gloo on the CPU, also where gradients travel through NCCL: gloo notices
    at once when a process ends.

    Args:
        ranks: this process.
        device: its device.
        timeout: seconds to wait for the others, at the start and in every exchange.
        meeting: where the processes find each other: `env://` (torchrun's), `tcp://host:port`, or `file:///path` of a
            file that does not exist yet.

    Raises:
        DistributedError: the processes cannot be connected.
    """
    if ranks.size == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(
            backend,
            init_method=meeting,
            rank=ranks.rank,
            world_size=ranks.size,
            timeout=timedelta(seconds=timeout),
        )
    except (RuntimeError, ValueError, OSError) as e:
        raise DistributedError(
            f"process {ranks.rank} of {ranks.size} cannot meet the others at {meeting} ({first_line(e)});"
            " start them with torchrun, or name the place with --meeting"
        ) from e
    try:
        yield
    finally:
        with suppress(Exception):  # the connections may be broken
            dist.destroy_process_group()
