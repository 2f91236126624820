"""Description of the machine that a benchmark ran on."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from condinst_deploy.support.versions import RESULT_LIBRARIES, installed_versions


def machine(libraries: Sequence[str] = RESULT_LIBRARIES, device: str = "cuda") -> dict[str, Any]:
    """Processor, cores, load and versions of what is installed; the GPU that `device` means, where there is one."""
    described: dict[str, Any] = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),  # that this process may use
        "cores_of_machine": os.cpu_count(),  # whose load it is
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": installed_versions(libraries),
    }
    if device.startswith("cuda") and torch.cuda.is_available():
        capability = "{}.{}".format(*torch.cuda.get_device_capability(device))
        described |= {"gpu": torch.cuda.get_device_name(device), "capability": capability, "cuda": torch.version.cuda}
    return described


def _processor() -> str:
    """The processor's name, if Linux gives it, and its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, '')} {platform.machine()}".strip()
