"""Deploy CondInst instance segmentation models.

`Predictor` runs a checkpoint or an exported file on images and returns `InstanceDetections`. What it refuses is a
`CondInstError`, or one of its kinds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from condinst_deploy.errors import (
    ArtifactError,
    BackendError,
    CheckpointError,
    CondInstError,
    ConfigError,
    DataError,
    EngineError,
    ExportError,
    ImageError,
    OutputError,
    VerificationError,
)

if TYPE_CHECKING:
    from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest
    from condinst_deploy.masks import Masks
    from condinst_deploy.runtime.cores import CpuThreads
    from condinst_deploy.runtime.observer import Observer, StageTime, StageTimer
    from condinst_deploy.runtime.options import PredictorOptions
    from condinst_deploy.runtime.predictor import Predictor
    from condinst_deploy.runtime.preprocessing.types import InputOptions

__version__ = "0.2.0"

_HOMES = {
    "CpuThreads": "condinst_deploy.runtime.cores",
    "ImageGeometry": "condinst_deploy.contract",
    "InputOptions": "condinst_deploy.runtime.preprocessing.types",
    "InstanceDetections": "condinst_deploy.contract",
    "Masks": "condinst_deploy.masks",
    "ModelManifest": "condinst_deploy.contract",
    "Observer": "condinst_deploy.runtime.observer",
    "Predictor": "condinst_deploy.runtime.predictor",
    "PredictorOptions": "condinst_deploy.runtime.options",
    "StageTime": "condinst_deploy.runtime.observer",
    "StageTimer": "condinst_deploy.runtime.observer",
}

__all__ = [
    "ArtifactError",
    "BackendError",
    "CheckpointError",
    "CondInstError",
    "ConfigError",
    "CpuThreads",
    "DataError",
    "EngineError",
    "ExportError",
    "ImageError",
    "ImageGeometry",
    "InputOptions",
    "InstanceDetections",
    "Masks",
    "ModelManifest",
    "Observer",
    "OutputError",
    "Predictor",
    "PredictorOptions",
    "StageTime",
    "StageTimer",
    "VerificationError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # resolved on first use, so that `condinst-predict --help` does not wait for the backends' libraries
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
