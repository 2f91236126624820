"""Make the plugins known to TensorRT, once in a process; only the builder needs it, an engine has the kernels."""

from functools import cache
from importlib import import_module

from condinst_engines.builder_library import BuilderLibrary


@cache
def register_plugins(flavour: BuilderLibrary) -> None:
    """Register both plugins with a flavour that has plugins."""
    from condinst_engines.plugins import mask_head, select  # they compile kernels: Triton is needed from here on

    trtp = import_module("tensorrt.plugin")
    mask_head.register(flavour.trt, trtp)
    select.register(flavour.trt, trtp)
