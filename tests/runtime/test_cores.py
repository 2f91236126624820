"""Cores are counted in a made-up tree of /proc and /sys."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from condinst_deploy.runtime.cores import usable_cores

SMT = {0: "0,4", 1: "1,5", 2: "2,6", 3: "3,7", 4: "0,4", 5: "1,5", 6: "2,6", 7: "3,7"}
"""Four cores of two threads, numbered as Linux does it."""

GROUP = "system.slice/box.scope"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def tree(root: Path, siblings: Mapping[int, str], quotas: Mapping[str, str] | None = None) -> Path:
    for cpu, text in siblings.items():
        write(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", text)
    write(root / "proc/self/cgroup", f"4:memory:/elsewhere\n0::/{GROUP}")
    for group, text in (quotas or {}).items():
        write(root / "sys/fs/cgroup" / group / "cpu.max", text)
    return root


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The CPUs that the process may use, to be filled."""
    cpus: set[int] = set()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cpus)
    return cpus


@pytest.mark.parametrize(
    ("cpus", "cores"),
    [(range(8), 4), ((0, 4), 1), ((0, 1), 2), ((3, 4, 7), 2), ((6,), 1)],
    ids=str,
)
def test_threads_of_one_core_count_once(cpus: tuple[int, ...], cores: int, allowed: set[int], tmp_path: Path) -> None:
    allowed.update(cpus)
    assert usable_cores(tree(tmp_path, SMT)) == cores


def test_cores_of_one_thread_all_count(allowed: set[int], tmp_path: Path) -> None:
    allowed.update(range(8))
    assert usable_cores(tree(tmp_path, {cpu: str(cpu) for cpu in range(8)})) == 8


def test_cpus_without_a_topology_count_as_cores(allowed: set[int], tmp_path: Path) -> None:
    allowed.update(range(6))
    assert usable_cores(tmp_path) == 6


@pytest.mark.parametrize(
    ("quotas", "cores"),
    [
        ({GROUP: "max 100000"}, 4),
        ({GROUP: "200000 100000"}, 2),
        ({GROUP: "250000 100000"}, 2),  # a third thread would be stopped half of the time
        ({GROUP: "50000 100000"}, 1),
        ({GROUP: "900000 100000"}, 4),
        ({GROUP: "max 100000", "system.slice": "300000 100000"}, 3),
        ({GROUP: "100000 100000", "system.slice": "300000 100000"}, 1),
        ({".": "200000 100000"}, 2),  # inside a container, its own group is the root
        ({GROUP: ""}, 4),
        ({GROUP: "nonsense 0"}, 4),
    ],
    ids=str,
)
def test_a_quota_of_the_group_or_one_around_it_limits_the_cores(
    quotas: Mapping[str, str], cores: int, allowed: set[int], tmp_path: Path
) -> None:
    allowed.update(range(8))
    assert usable_cores(tree(tmp_path, SMT, quotas)) == cores


def test_this_machine_has_at_least_one_core_and_no_more_than_the_affinity() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
