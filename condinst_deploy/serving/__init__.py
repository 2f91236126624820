"""Serving beyond one process: model repositories for NVIDIA Triton Inference Server, a client, and large inputs.

`detect_dataset` runs a model on a Ray Dataset. It needs the extra `ray`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condinst_deploy.serving.client.client import Client
    from condinst_deploy.serving.ray_dataset import detect_dataset

_HOMES = {
    "Client": "condinst_deploy.serving.client.client",
    "detect_dataset": "condinst_deploy.serving.ray_dataset",
}

__all__ = ["Client", "detect_dataset"]


def __getattr__(name: str) -> Any:
    # resolved on first use: a client needs neither PyTorch nor Ray, and the server side needs no client
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
