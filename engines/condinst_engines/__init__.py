"""The stage ONNX -> TensorRT: engines of the builders `tensorrt` and `rtx`, from one code path."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from condinst_engines.build_engine_file import BuildReports, BuiltEngineFile, build_engine
    from condinst_engines.build_options import BuildOptions
    from condinst_engines.build_recipe import BuildRecipe

_HOMES = {
    "BuildOptions": "condinst_engines.build_options",
    "BuildRecipe": "condinst_engines.build_recipe",
    "BuildReports": "condinst_engines.build_engine_file",
    "BuiltEngineFile": "condinst_engines.build_engine_file",
    "build_engine": "condinst_engines.build_engine_file",
}

__all__ = ["BuildOptions", "BuildRecipe", "BuildReports", "BuiltEngineFile", "build_engine"]


def __getattr__(name: str) -> Any:
    # resolved at the first use: `condinst-build-engine --help` does not wait for PyTorch
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
