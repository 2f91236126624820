"""All checks of one machine, and of one file on it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from condinst_deploy.doctor.checks import Check
from condinst_deploy.doctor.gpu_checks import driver_check
from condinst_deploy.doctor.libraries import Probe, library_checks
from condinst_deploy.doctor.model_file import check_model_file, file_checks
from condinst_deploy.doctor.probes import probe as run_probe
from condinst_deploy.doctor.system import system_checks

__all__ = ["Check", "Diagnosis", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """Checks of the machine and, where a file was given, of the file."""

    machine: tuple[Check, ...]
    file: tuple[Check, ...] = ()
    path: str = ""  # of the file; empty without one

    @property
    def ok(self) -> bool:
        """True if nothing that is needed is broken: the file's checks count if there is a file, else the machine's."""
        return all(check.status != "failed" for check in (self.file or self.machine))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "ok": self.ok,
            "machine": [asdict(check) for check in self.machine],
            "path": self.path or None,
            "file": [asdict(check) for check in self.file],
        }


def diagnose(path: Path | None = None, probe: Probe = run_probe) -> Diagnosis:
    """Check this machine and, if given, one model file on it.

    Args:
        path: a checkpoint, an `.onnx` file or an engine; None: the machine alone.
        probe: runs one probe of `probe_worker`, by default in a separate process.

    Raises:
        ArtifactError, CheckpointError: the file is not there.
        ConfigError: it is of no known kind.
    """
    if path is not None:
        check_model_file(path)  # before the machine's checks, which take their time
    driver = driver_check()
    machine = (*system_checks(), driver, *library_checks(probe, bool(driver.details.get("gpus"))))
    if path is None:
        return Diagnosis(machine)
    return Diagnosis(machine, tuple(file_checks(path, probe, _capabilities(driver, machine))), str(path.absolute()))


def _capabilities(driver: Check, machine: Sequence[Check]) -> list[str]:
    """Compute capabilities of the GPUs, by the driver's tool or, without it, by PyTorch."""
    by_driver = [str(gpu["compute_cap"]).replace(".", "") for gpu in driver.details.get("gpus", [])]
    by_torch = [
        gpu["capability"] for check in machine if check.name == "PyTorch" for gpu in check.details.get("gpus", [])
    ]
    return by_driver or by_torch
