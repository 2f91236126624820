"""Registers and spills of compiled kernels, from the assembler that comes with Triton."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton

FIRST_BLACKWELL = 100


@dataclass(frozen=True)
class Resources:
    """Resources of a kernel, as the assembler reports them."""

    registers: int  # of a thread
    spilled_bytes: int  # stores and loads of a thread


def resources_of(ptx: str, architecture: str) -> Resources:
    """Assemble for an architecture (`sm_90`) with the assembler that comes with Triton.

    Raises:
        subprocess.CalledProcessError: the assembler refuses the PTX.
    """
    tools = triton.knobs.nvidia
    number = int(re.sub(r"\D", "", architecture))
    assembler = tools.ptxas_blackwell if number >= FIRST_BLACKWELL else tools.ptxas
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx, encoding="utf-8")
        command = [assembler.path, "-v", f"-arch={architecture}", str(source), "-o", str(source.with_suffix(".cubin"))]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", said))
    registers = max(int(n) for n in re.findall(r"Used (\d+) registers", said))
    return Resources(registers, spilled)
