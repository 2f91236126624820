"""Machine and commit of a measurement."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from condinst_deploy.benchmarking import machine as installed

PACKAGES = ("numpy", "onnxruntime-gpu", "pycocotools", "torch")


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Processor, cores, load, versions and commit; the GPU where there is one."""
    return installed.machine(packages) | {"commit": _commit()}


def _commit() -> str:
    """Short hash of the working tree's commit; "" without git, as in a slim container."""
    head = ["git", "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(head, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    except OSError:
        return ""
    return done.stdout.strip()
