"""Deploy CondInst instance segmentation models.

`Predictor` runs a checkpoint or an exported file on pictures and returns `InstanceDetections`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest
    from condinst_deploy.errors import CondInstError
    from condinst_deploy.masks import Masks
    from condinst_deploy.runtime.predictor import Predictor
    from condinst_deploy.runtime.prepare import InputOptions

__version__ = "0.1.0"

_HOMES = {
    "CondInstError": "condinst_deploy.errors",
    "ImageGeometry": "condinst_deploy.contract",
    "InputOptions": "condinst_deploy.runtime.prepare",
    "InstanceDetections": "condinst_deploy.contract",
    "Masks": "condinst_deploy.masks",
    "ModelManifest": "condinst_deploy.contract",
    "Predictor": "condinst_deploy.runtime.predictor",
}

__all__ = [
    "CondInstError",
    "ImageGeometry",
    "InputOptions",
    "InstanceDetections",
    "Masks",
    "ModelManifest",
    "Predictor",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # resolved on first use, so that `condinst-predict --help` does not wait for the backends' libraries
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
