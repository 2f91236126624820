"""The device that a user names, found without PyTorch."""

import re
from dataclasses import dataclass
from pathlib import Path

from condinst_deploy.errors import ConfigError

DRIVER_VERSION = "proc/driver/nvidia/version"
GPU_NODES = ("dev/nvidia0", DRIVER_VERSION, "dev/dxg")
"""Files that exist where NVIDIA's driver is loaded; the last is that of WSL."""


@dataclass(frozen=True)
class Device:
    """A device: "cpu" or "cuda", and the number of the GPU."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return self.kind if self.kind == "cpu" else f"cuda:{self.index}"


def driver_present(root: Path = Path("/")) -> bool:
    """True if NVIDIA's driver is loaded on this machine."""
    return any((root / node).exists() for node in GPU_NODES)


def check_device(device: str) -> None:
    """Check the word before a library is imported that knows which devices are there.

    Raises:
        ConfigError: the word is unknown.
    """
    parsed_device(device, gpu_usable=False)


def parsed_device(device: str, *, gpu_usable: bool) -> Device:
    """Return the device that a user names.

    Args:
        device: "auto", "cpu", "cuda" or "cuda:N".
        gpu_usable: whether "auto" means the first GPU.

    Raises:
        ConfigError: the word is unknown.
    """
    if device == "auto":
        return Device("cuda" if gpu_usable else "cpu")
    match = re.fullmatch(r"cpu|cuda(?::(\d{1,4}))?", device) if isinstance(device, str) else None
    if match is None:
        raise ConfigError(f"device {device!r:.60} is unknown; expected auto, cpu, cuda or cuda:N")
    return Device("cpu") if device == "cpu" else Device("cuda", int(match[1] or 0))
