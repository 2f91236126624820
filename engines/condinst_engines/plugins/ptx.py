"""PTX as TensorRT launches it: portable, and with the parameters that it passes, no others.

Triton ends every kernel's parameter list with two pointers of its own (scratch memory, profiling), which its own
launcher passes. TensorRT passes inputs, whole numbers and outputs. The kernels here use neither pointer, which is
checked, and they are taken off.
"""

import re
from dataclasses import replace

from condinst_deploy.errors import EngineError
from condinst_deploy.kernels.aot import CompiledKernel, KernelSource, compiled, target_of
from condinst_engines.plugins.names import LOWEST_CAPABILITY

PTX_VERSION = 80
"""ISA 8.0, which drivers from CUDA 12.0 on read, and which knows sm_80 to sm_90."""

HIDDEN = 2
ENTRY = re.compile(r"(\.visible \.entry \w+\()(.*?)(\n\))", re.DOTALL)
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
    return replace(kernel, ptx=without_hidden_parameters(kernel.ptx, list(source.arguments.values())))


def parameters_of(ptx: str) -> list[str]:
    """Types of the entry's parameters, in order: `u64` for a pointer, `u32` for a whole number."""
    entry = ENTRY.search(ptx)
    return re.findall(r"\.param\s+\.(\w+)", entry.group(2)) if entry else []


def without_hidden_parameters(ptx: str, arguments: list[str]) -> str:
    """Take the two hidden pointers off the entry's parameter list.

    Args:
        ptx: one kernel.
        arguments: Triton's names of the types of the kernel's own arguments.

    Raises:
        EngineError: the list is another than expected, or the kernel reads a hidden pointer.
    """
    wanted = ["u64" if kind.startswith("*") else "u32" for kind in arguments]
    found = parameters_of(ptx)
    if found != wanted + ["u64"] * HIDDEN:
        raise EngineError(f"a kernel has the parameters {found}; expected {wanted} and two hidden pointers: {ADVICE}")
    entry = ENTRY.search(ptx)
    assert entry is not None
    lines = entry.group(2).split(",\n")
    own, hidden = lines[:-HIDDEN], lines[-HIDDEN:]
    body = ptx[entry.end() :]
    read = [name for line in hidden if re.search(rf"\b{(name := line.split()[-1])}\b", body)]
    if read:
        raise EngineError(f"a kernel reads its hidden parameters {read}, which TensorRT does not pass: {ADVICE}")
    return ptx[: entry.start()] + entry.group(1) + ",\n".join(own) + entry.group(3) + body
