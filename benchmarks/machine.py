"""What a committed figure was measured on."""

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def machine(packages: Sequence[str] = ("numpy", "onnxruntime-gpu", "pycocotools", "torch")) -> dict[str, Any]:
    """Processor, cores, load, versions and commit; the GPU where there is one."""
    head = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    described = {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "commit": commit.stdout.strip(),
    }
    if torch.cuda.is_available():
        capability = "{}.{}".format(*torch.cuda.get_device_capability())
        described |= {"gpu": torch.cuda.get_device_name(), "capability": capability, "cuda": torch.version.cuda}
    return described


def _processor() -> str:
    """The processor's name where Linux tells it, and its kind."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(names, '')} {platform.machine()}".strip()
