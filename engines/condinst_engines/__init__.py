"""The stage ONNX -> TensorRT: engines of the builders `tensorrt` and `rtx`, from one code path."""

from typing import TYPE_CHECKING, Any

from condinst_deploy.support.extras import resolved

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
    return resolved(__name__, name, _HOMES, "rtx")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
