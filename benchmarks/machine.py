"""Machine and commit of a measurement."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from condinst_deploy.benchmarking import machine as installed

PACKAGES = ("numpy", "onnxruntime-gpu", "pycocotools", "torch")


def machine(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Processor, cores, load, versions and commit; the GPU where there is one."""
    head = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return installed.machine(packages) | {"commit": commit.stdout.strip()}
