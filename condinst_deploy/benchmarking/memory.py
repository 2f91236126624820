"""Memory of this process and of a GPU, in MB of a million bytes."""

from pathlib import Path

import torch

STATUS = Path("/proc/self/status")


def resident_mb() -> float | None:
    """Return the memory that this process holds now; None on a system other than Linux."""
    return _field("VmRSS")


def peak_mb() -> float | None:
    """Return the peak of that memory. `ru_maxrss` is not used: it starts from the peak of the parent process."""
    return _field("VmHWM")


def free_device_mb(device: str) -> float | None:
    """Return the free memory of the GPU, all processes counted; None for a CPU."""
    return torch.cuda.mem_get_info(device)[0] / 1e6 if device.startswith("cuda") else None


def peak_of_torch_mb(device: str) -> float | None:
    """Return the peak of PyTorch's memory on the GPU, weights included; None for a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.startswith("cuda") else None


def _field(name: str) -> float | None:
    try:
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    values = (line.split()[1] for line in lines if line.startswith(f"{name}:"))  # in kB of 1024 bytes
    kilobytes = next(values, None)
    return None if kilobytes is None else int(kilobytes) * 1024 / 1e6
