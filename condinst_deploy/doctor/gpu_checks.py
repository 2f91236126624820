"""Checks of NVIDIA's driver and GPUs, without any Python library."""

import shutil
import subprocess
from pathlib import Path

from condinst_deploy.doctor.checks import Check
from condinst_deploy.runtime.devices import DRIVER_VERSION

QUERY = ("name", "compute_cap", "memory.total", "memory.free", "driver_version")
SECONDS = 30.0

MIN_DRIVER = 580
"""Lowest driver branch for CUDA 13, which the pinned PyTorch and TensorRT 11 need."""


def driver_check(root: Path = Path("/")) -> Check:
    """The driver and the GPUs that it sees, by `nvidia-smi`."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        if (root / DRIVER_VERSION).exists():
            advice = "install the tools of the driver, or run the container with the capability `utility`"
            return Check("NVIDIA driver", "warning", "loaded, but nvidia-smi is not on the PATH", advice)
        return Check(
            "NVIDIA driver", "absent", "none", "checkpoints and .onnx files run on the CPU; engines need a GPU"
        )
    command = [tool, f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as e:
        return Check("NVIDIA driver", "failed", f"nvidia-smi does not run ({e})", "restart the driver or the machine")
    if done.returncode != 0:
        said = (done.stdout or done.stderr).strip().splitlines()
        reason = said[0][:200] if said else f"status {done.returncode}"
        return Check("NVIDIA driver", "failed", f"nvidia-smi fails: {reason}", "reinstall or restart the driver")
    return driver_check_of(done.stdout)


def driver_check_of(text: str) -> Check:
    """The check for what `nvidia-smi` printed, a line for each GPU."""
    rows = [[value.strip() for value in line.split(",")] for line in text.splitlines() if line.strip()]
    gpus = [dict(zip(QUERY, row, strict=True)) for row in rows if len(row) == len(QUERY)]
    if not gpus:
        return Check(
            "NVIDIA driver", "failed", "nvidia-smi lists no GPU", "check that the container gets one (--gpus all)"
        )
    driver = gpus[0]["driver_version"]
    names = ", ".join(
        f"{g['name']} ({g['compute_cap']}, {g['memory.free']} of {g['memory.total']} MiB free)" for g in gpus
    )
    details = {"driver": driver, "gpus": gpus}
    major = driver.partition(".")[0]
    if major.isdecimal() and int(major) < MIN_DRIVER:
        advice = f"CUDA 13 needs a driver of {MIN_DRIVER} or newer; update it, or install builds for CUDA 12"
        return Check("NVIDIA driver", "warning", f"{driver}; {names}", advice, details)
    return Check("NVIDIA driver", "ok", f"{driver}; {names}", details=details)
