"""Run a model on many images: shards of a large input, in one process or on Ray.

`detect_dataset` runs a model on a Ray Dataset. It needs the extra `ray`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condinst_deploy.serving.dataset import detect_dataset

_HOMES = {"detect_dataset": "condinst_deploy.serving.dataset"}

__all__ = ["detect_dataset"]


def __getattr__(name: str) -> Any:
    # resolved on first use: Ray and PyTorch are slow to import
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
