"""Run the probes of `probe_worker` in separate processes, and read their answers."""

import json
import os
import subprocess
import sys
from typing import Any

from condinst_deploy.errors import ConfigError
from condinst_deploy.support import current_folder

MODULE = "condinst_deploy.doctor.probe_worker"
SECONDS = 120.0
"""After this time a probe is ended; importing PyTorch from a cold disk takes up to half a minute."""


def probe(name: str, argument: str = "", seconds: float = SECONDS, module: str = MODULE) -> dict[str, Any]:
    """The answer of one probe.

    Args:
        name: a key of `probe_worker.PROBES`.
        argument: what the probe takes, for example a module's name.
        seconds: time limit.
        module: what runs in the process; it prints the answer as the last line.

    Returns:
        What the probe found; or `missing` (a library is not installed) or `failed`, each with the reason.

    Raises:
        ConfigError: the current folder was deleted.
    """
    command = [sys.executable, "-m", module, name, argument]
    environment = os.environ | {"CUDA_MODULE_LOADING": "LAZY"}
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False, env=environment)
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer within {seconds:g} s"}
    except OSError as e:
        return {"failed": f"its process cannot be started ({e.strerror or e})"}
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except ValueError:
        answer = None
    if current_folder.is_gone():
        raise ConfigError(current_folder.GONE)  # every library fails then, and none of them is at fault
    if not isinstance(answer, dict):
        return {"failed": f"its process ended with status {done.returncode} and no answer{_last_words(done.stderr)}"}
    return answer


def _last_words(stderr: bytes) -> str:
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    return f": {lines[-1][:200]}" if lines else ""
