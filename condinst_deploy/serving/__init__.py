"""Serving beyond one process: model repositories for NVIDIA Triton Inference Server, and a client."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condinst_deploy.serving.client.client import Client

_HOMES = {"Client": "condinst_deploy.serving.client.client"}

__all__ = ["Client"]


def __getattr__(name: str) -> Any:
    # resolved on first use: a client needs none of what the server side imports, and the other way round
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
