"""PTX as other launchers than Triton's start it: portable, and with the kernel's own parameters alone.

Triton ends every kernel's parameter list with two pointers (scratch memory, profiling), which its own launcher passes.
TensorRT and the engine runtime pass inputs, whole numbers and outputs. The kernels here use neither pointer, which is
checked, and they are taken off.
"""

import re

from condinst_deploy.errors import EngineError

PTX_VERSION = 80
"""ISA 8.0, which drivers from CUDA 12.0 on read, and which knows sm_75 to sm_90."""

HIDDEN = 2
ENTRY = re.compile(r"(\.visible \.entry \w+\()(.*?)(\n\))", re.DOTALL)
ADVICE = "install the versions in constraints.txt"


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
        raise EngineError(f"a kernel reads its hidden parameters {read}, but the launcher does not pass them: {ADVICE}")
    return ptx[: entry.start()] + entry.group(1) + ",\n".join(own) + entry.group(3) + body
