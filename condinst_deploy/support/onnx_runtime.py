"""ONNX Runtime, imported in one place, because its telemetry is decided when it is imported."""

import os
from typing import Any


def onnx_runtime() -> Any:
    """Import ONNX Runtime with its telemetry off.

    The published packages (1.31 on Linux) send events to their maker, and write a device id into `~/.cache`. The
    variable `ORT_DISABLE_TELEMETRY` decides; a value that the user set stays.

    Raises:
        ImportError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime
