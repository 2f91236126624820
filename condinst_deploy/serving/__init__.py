"""Serving beyond one process: model repositories for NVIDIA Triton Inference Server, a client, and large inputs.

`detect_dataset` runs a model on a Ray Dataset. It needs the extra `ray`.
"""

from typing import TYPE_CHECKING, Any

from condinst_deploy.support.extras import resolved

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
    return resolved(__name__, name, _HOMES)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
