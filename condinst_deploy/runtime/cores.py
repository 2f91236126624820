"""Number of cores that this process can use, and of threads that compute a batch."""

import os
from dataclasses import dataclass
from pathlib import Path

from condinst_deploy.errors import ConfigError
from condinst_deploy.shown_text import shown_value
from condinst_deploy.support.option_types import check_types

CONTROL_GROUPS = "sys/fs/cgroup"
"""Where Linux shows control groups, below the root."""

MOST_THREADS = 4096
"""Threads that one network may be given; each takes memory for its stack."""


@dataclass(frozen=True)
class CpuThreads:
    """Threads that compute one batch on a CPU."""

    count: int | None = None  # None: `usable_cores`, one for each physical core that this process may use
    spin: bool = True  # busy-wait for the next operator: faster alone, slower if other programs use the cores

    def __post_init__(self) -> None:
        """Check types and the number.

        Raises:
            ConfigError: a value has a wrong type, or the number is not 1 to `MOST_THREADS`.
        """
        check_types(self)
        if self.count is not None and not 1 <= self.count <= MOST_THREADS:
            raise ConfigError(
                f"the number of threads is {shown_value(self.count)}; expected 1 to {MOST_THREADS:,}, or None for all"
                " cores"
            )


def usable_cores(root: Path = Path("/")) -> int:
    """Physical cores among the CPUs that this process may use, but no more than its control group's quota allows.

    Two threads of a core share its vector units: a second one that multiplies matrices only gets in the way. Beyond
    a quota (`cpu.max` of a control group of version 2, as containers have it) the kernel stops all threads until the
    next period.

    Args:
        root: where `proc` and `sys` are; what cannot be read there limits nothing.
    """
    allowed = os.sched_getaffinity(0)
    cores = len({_siblings(root, cpu) for cpu in allowed})
    quotas = [quota for folder in _groups(root) if (quota := _quota(folder / "cpu.max")) is not None]
    return max(1, int(min([cores, *quotas])))


def _siblings(root: Path, cpu: int) -> str:
    """The CPUs that are threads of one core with `cpu`; the same text for each of them."""
    own = str(cpu)
    return system_text(root / "sys/devices/system/cpu" / f"cpu{cpu}" / "topology/thread_siblings_list") or own


def _groups(root: Path) -> list[Path]:
    """The folders of this process' control group and of those around it, each of which can have a quota."""
    unified = (line[3:] for line in system_text(root / "proc/self/cgroup").splitlines() if line.startswith("0::"))
    mount = root / CONTROL_GROUPS
    inside = mount / next(unified, "/").lstrip("/")
    return [folder for folder in (inside, *inside.parents) if folder.is_relative_to(mount)]


def _quota(path: Path) -> float | None:
    """Cores' worth of time; None: no limit."""
    match system_text(path).split():
        case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period) > 0:
            return int(quota) / int(period)
    return None


def system_text(path: Path) -> str:
    """Return the content of a file of /proc or /sys; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
