"""Several processes that train together, on this machine's loopback."""

import os
import pickle
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from condinst_deploy.training.ranks import Ranks, connected

LONGEST = 120.0
"""Seconds after which a process that has not ended is killed."""

Outcome = Any
"""Result of a process's function, the exception that it raised, or None if the process was killed."""


def in_processes(
    size: int, function: Callable[[Ranks], Any], folder: Path, timeout: float = 60.0, hangs: int | None = None
) -> list[Outcome]:
    """Run a function in each of several connected processes; return the outcomes in the order of the ranks.

    The processes are forked from one that has imported PyTorch and never used it: autograd's threads do not live
    through a fork.

    Args:
        size: number of processes.
        function: called with each process's rank; it can be any closure, cloudpickle copies it.
        folder: where the processes find each other.
        timeout: seconds that a process waits for the others in an exchange.
        hangs: rank of a process that never ends; it is killed when the others have ended.
    """
    context, meeting = get_context("forkserver"), f"file://{folder}/meeting_{len(list(folder.glob('meeting_*')))}"
    context.set_forkserver_preload(["condinst_deploy.training.trainer", __name__])
    copied = cloudpickle.dumps(function)
    started = []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(Ranks(rank, size, rank), copied, meeting, timeout, theirs))
        process.start()
        theirs.close()
        started.append((process, ours))
    outcomes = [None if rank == hangs else _outcome(ours) for rank, (_, ours) in enumerate(started)]
    for process, _ in started:
        process.kill()
        process.join()
    return outcomes


def _outcome(ours: Connection) -> Outcome:
    try:
        return (
            pickle.loads(ours.recv_bytes()) if ours.poll(LONGEST) else TimeoutError(f"no answer in {LONGEST} seconds")
        )
    except EOFError:
        return None


def _run(ranks: Ranks, copied: bytes, meeting: str, timeout: float, answer: Connection) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    try:
        with connected(ranks, torch.device("cpu"), timeout, meeting):
            outcome = pickle.loads(copied)(ranks)
            answer.send_bytes(cloudpickle.dumps(outcome))  # by value: a tensor would be shared with a process that ends
            answer.close()
    except BaseException as e:  # also KeyboardInterrupt: the test looks at it
        traceback.print_exc()
        answer.send_bytes(cloudpickle.dumps(e))
    os._exit(0)
