"""Kernels as TensorRT's plugins launch them."""

import re
from dataclasses import replace

from condinst_deploy.errors import EngineError
from condinst_deploy.kernels.aot import CompiledKernel, KernelSource, compiled, target_of
from condinst_deploy.kernels.ptx import PTX_VERSION, without_hidden_parameters
from condinst_engines.plugins.names import LOWEST_CAPABILITY

ADVICE = "build with --no-plugins, or install the versions in constraints.txt"


def plugin_kernel(source: KernelSource) -> CompiledKernel:
    """Compile a kernel for use inside an engine.

    Raises:
        EngineError: the compiler did not give the PTX that the plugins were written for.
    """
    kernel = compiled(source, LOWEST_CAPABILITY, PTX_VERSION)
    version = re.search(r"^\.version\s+(\S+)", kernel.ptx, re.MULTILINE)
    found = (version.group(1) if version else "none", target_of(kernel.ptx))
    if found != ("8.0", f"sm_{LOWEST_CAPABILITY}"):
        raise EngineError(f"the kernel {kernel.name} was compiled to PTX {found}; expected 8.0 for sm_80: {ADVICE}")
    try:
        ptx = without_hidden_parameters(kernel.ptx, list(source.arguments.values()))
    except EngineError as e:
        raise EngineError(f"{e}, or build with --no-plugins") from e
    return replace(kernel, ptx=ptx)
