"""Checks of the machine itself: Python, processor, memory, disk, compiler. Nothing is imported for them."""

import os
import platform
import shutil
import sys
from pathlib import Path

from condinst_deploy.doctor.checks import Check
from condinst_deploy.runtime.cores import CONTROL_GROUPS, system_text, usable_cores
from condinst_deploy.runtime.cpu_features import VNNI, cpu_flags

MIN_PYTHON = (3, 11)
MIN_FREE_DISK = 2 * 10**9
"""Bytes: an exported R-50, its engine and temporary copies of both take about 0.8 GB."""

MIN_FREE_MEMORY = 2 * 10**9
"""Bytes: exporting a R-50 peaks at 2.1 GB, running it at 800x1344 on a CPU takes about 1.5 GB."""

COMPILERS = ("cc", "gcc", "clang")


def system_checks(folder: Path = Path(), root: Path = Path("/")) -> list[Check]:
    """Check what the operating system reports.

    Args:
        folder: where results would be written; the free space of its disk is checked.
        root: where `proc` and `sys` are.
    """
    return [_python(), _cores(root), _memory(root), _disk(folder), _compiler()]


def _python() -> Check:
    version = platform.python_version()
    details = {"version": version, "executable": sys.executable, "system": f"{platform.system()} {platform.machine()}"}
    found = f"{version} on {details['system']}"
    if sys.version_info < MIN_PYTHON:
        return Check("Python", "failed", found, f"install Python {MIN_PYTHON[0]}.{MIN_PYTHON[1]} or newer", details)
    return Check("Python", "ok", found, details=details)


def _cores(root: Path) -> Check:
    allowed, usable, whole = len(os.sched_getaffinity(0)), usable_cores(root), os.cpu_count() or 1
    details = {"usable_cores": usable, "allowed_cpus": allowed, "cpus": whole, "load": round(os.getloadavg()[0], 1)}
    details["vnni"] = not VNNI.isdisjoint(cpu_flags(root))
    units = "VNNI: INT8 files are fast" if details["vnni"] else "no VNNI: use float32 files"
    found = f"{usable} physical cores usable ({allowed} of {whole} CPUs allowed, load {details['load']}); {units}"
    if usable < min(allowed, whole) / 2:
        advice = "a quota or an affinity mask limits this process; raise the container's CPU limit for more speed"
        return Check("processor", "warning", found, advice, details)
    return Check("processor", "ok", found, details=details)


def _memory(root: Path) -> Check:
    free = available_memory(root)
    if free is None:
        return Check("memory", "warning", "the free memory is unknown", "this system has no /proc/meminfo")
    found, details = f"{free / 1e9:.1f} GB available", {"available_bytes": free}
    if free < MIN_FREE_MEMORY:
        return Check("memory", "warning", found, "a full-size model needs about 2 GB; free some memory", details)
    return Check("memory", "ok", found, details=details)


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that new processes can get: the system's, but no more than the control group's limit leaves.

    Returns:
        None if the system does not report it.
    """
    meminfo = dict(line.split(":", 1) for line in system_text(root / "proc/meminfo").splitlines() if ":" in line)
    kilobytes = meminfo.get("MemAvailable", "").split()
    free = [int(kilobytes[0]) * 1024] if kilobytes and kilobytes[0].isdecimal() else []
    limit, used = (system_text(root / CONTROL_GROUPS / name) for name in ("memory.max", "memory.current"))
    if limit.isdecimal() and used.isdecimal():
        free.append(max(0, int(limit) - int(used)))
    return min(free, default=None)


def _disk(folder: Path) -> Check:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as e:
        return Check("disk", "failed", f"{folder} cannot be examined ({e.strerror or e})", "choose another folder")
    found, details = f"{free / 1e9:.1f} GB free", {"free_bytes": free, "folder": str(folder.absolute())}
    if free < MIN_FREE_DISK:
        return Check("disk", "warning", found, "an export and its engine take up to 1 GB; free some space", details)
    return Check("disk", "ok", found, details=details)


def _compiler() -> Check:
    path = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    if path is None:
        return Check("C compiler", "absent", "none", "Triton builds a launcher with one at the first launch on a GPU")
    return Check("C compiler", "ok", path, details={"path": path})
