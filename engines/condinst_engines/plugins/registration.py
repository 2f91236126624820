"""Make the plugins known to TensorRT, once in a process; only the builder needs it, an engine has the kernels."""

from functools import cache
from importlib import import_module

from condinst_engines.builder_library import BuilderLibrary


@cache
def register_plugins(library: BuilderLibrary) -> None:
    """Register both plugins with a builder that has plugins."""
    from condinst_engines.plugins import mask_head, select  # they compile kernels: Triton is needed from here on

    trtp = import_module("tensorrt.plugin")
    mask_head.register(library.trt, trtp)
    select.register(library.trt, trtp)
