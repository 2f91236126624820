"""Processes of this machine, from /proc."""

import os
from pathlib import Path


def descendants(process: int) -> list[int]:
    """Processes of this machine that a process started, and those started by them."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):
            continue
    found, wanted = list[int](), {process}
    while wanted:
        wanted = {child for child, parent in parents.items() if parent in wanted}
        found += wanted
    return found


def alive(processes: list[int]) -> list[int]:
    """Those that still run; a dead one whose parent did not ask is dead."""
    running = []
    for process in processes:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state not in "ZX":
            running.append(process)
    return running


def is_ray_worker(process: int) -> bool:
    """Return whether the process is one of those that write parts."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::ShardActor")
    except OSError:  # it has ended
        return False


def cpu_seconds_of(process: int) -> float:
    """CPU time of a process so far, without its children; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
