"""Deploy CondInst instance segmentation models.

`train` makes a checkpoint, `Predictor` runs a model file on images and returns `InstanceDetections`, `predict_files`
writes the results of image files into a folder, and `evaluate` measures model files. `condinst_export.export_model`
and `condinst_engines.build_engine` make the files in between. Each of these functions takes an object of
functions that it calls as it goes on, for progress: `TrainReports`, `PredictFilesReports`, `EvaluationHooks`,
`ExportReports`, `BuildReports`.
What is refused raises a `CondInstError`, or one of its kinds.
"""

from typing import TYPE_CHECKING, Any

from condinst_deploy.errors import (
    ArtifactError,
    BackendError,
    CheckpointError,
    CondInstError,
    ConfigError,
    DataError,
    DeviceError,
    DistributedError,
    EngineError,
    ExportError,
    ImageError,
    MissingFileError,
    OutputError,
    SettingError,
    VerificationError,
)
from condinst_deploy.support.extras import resolved

if TYPE_CHECKING:
    from condinst_deploy.contract import ImageGeometry, InstanceDetections, ModelManifest
    from condinst_deploy.evaluation.evaluate_models import EvaluatedModels, EvaluationHooks, evaluate
    from condinst_deploy.evaluation.sources import EvaluationOptions
    from condinst_deploy.imaging.encoded_image import EncodedImage
    from condinst_deploy.masks import Masks
    from condinst_deploy.runtime.cores import CpuThreads
    from condinst_deploy.runtime.observer import Observer, StageTime, StageTimer
    from condinst_deploy.runtime.predict_files import (
        PredictedFiles,
        PredictFilesOptions,
        PredictFilesReports,
        predict_files,
    )
    from condinst_deploy.runtime.predictor import Predictor
    from condinst_deploy.runtime.predictor_options import PredictorOptions
    from condinst_deploy.runtime.preprocessing.types import InputOptions
    from condinst_deploy.runtime.recording import FileOutputs
    from condinst_deploy.support.versions import __version__
    from condinst_deploy.training.train_model import TrainedModel, TrainReports, train
    from condinst_deploy.training.train_options import TrainOptions

_HOMES = {
    "__version__": "condinst_deploy.support.versions",
    "CpuThreads": "condinst_deploy.runtime.cores",
    "EncodedImage": "condinst_deploy.imaging.encoded_image",
    "EvaluatedModels": "condinst_deploy.evaluation.evaluate_models",
    "EvaluationHooks": "condinst_deploy.evaluation.evaluate_models",
    "EvaluationOptions": "condinst_deploy.evaluation.sources",
    "FileOutputs": "condinst_deploy.runtime.recording",
    "ImageGeometry": "condinst_deploy.contract",
    "InputOptions": "condinst_deploy.runtime.preprocessing.types",
    "InstanceDetections": "condinst_deploy.contract",
    "Masks": "condinst_deploy.masks",
    "ModelManifest": "condinst_deploy.contract",
    "Observer": "condinst_deploy.runtime.observer",
    "PredictFilesOptions": "condinst_deploy.runtime.predict_files",
    "PredictFilesReports": "condinst_deploy.runtime.predict_files",
    "PredictedFiles": "condinst_deploy.runtime.predict_files",
    "Predictor": "condinst_deploy.runtime.predictor",
    "PredictorOptions": "condinst_deploy.runtime.predictor_options",
    "StageTime": "condinst_deploy.runtime.observer",
    "StageTimer": "condinst_deploy.runtime.observer",
    "TrainOptions": "condinst_deploy.training.train_options",
    "TrainReports": "condinst_deploy.training.train_model",
    "TrainedModel": "condinst_deploy.training.train_model",
    "evaluate": "condinst_deploy.evaluation.evaluate_models",
    "predict_files": "condinst_deploy.runtime.predict_files",
    "train": "condinst_deploy.training.train_model",
}

_EXTRAS = {
    "EvaluationHooks": "eval",
    "TrainReports": "train",
    "TrainedModel": "train",
    "evaluate": "eval",
    "train": "train",
}
"""Name -> extra that brings all that it needs."""

__all__ = [
    "ArtifactError",
    "BackendError",
    "CheckpointError",
    "CondInstError",
    "ConfigError",
    "CpuThreads",
    "DataError",
    "DeviceError",
    "DistributedError",
    "EncodedImage",
    "EngineError",
    "EvaluatedModels",
    "EvaluationHooks",
    "EvaluationOptions",
    "ExportError",
    "FileOutputs",
    "ImageError",
    "ImageGeometry",
    "InputOptions",
    "InstanceDetections",
    "Masks",
    "MissingFileError",
    "ModelManifest",
    "Observer",
    "OutputError",
    "PredictFilesOptions",
    "PredictFilesReports",
    "PredictedFiles",
    "Predictor",
    "PredictorOptions",
    "SettingError",
    "StageTime",
    "StageTimer",
    "TrainOptions",
    "TrainReports",
    "TrainedModel",
    "VerificationError",
    "__version__",
    "evaluate",
    "predict_files",
    "train",
]


def __getattr__(name: str) -> Any:
    # resolved on first use, so that `condinst-predict --help` does not wait for the backends' libraries
    return resolved(__name__, name, _HOMES, _EXTRAS.get(name))


def __dir__() -> list[str]:
    # names that are resolved on first use are not in the module yet; what this module imports is no interface
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
