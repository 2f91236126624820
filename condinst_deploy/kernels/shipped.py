"""Kernels that the package contains as PTX, for programs without Triton, PyTorch and a C compiler.

`make kernels` writes them (`kernels/build_shipped.py`); a test compares them with the sources. The driver compiles PTX
for the GPU at hand when it is loaded, and caches the result.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "compiled"
INDEX = "kernels.json"

LOWEST_CAPABILITY = 75
"""Compute capability that the PTX is for; the driver compiles it for later ones, too."""


@dataclass(frozen=True)
class ShippedKernel:
    """A kernel and what a launch must know."""

    name: str  # of its entry in the PTX
    ptx: bytes
    threads: int  # of a block
    shared_bytes: int
    arguments: tuple[str, ...]  # "pointer" or "i32", in order


@cache
def shipped_kernel(name: str) -> ShippedKernel:
    """Return a kernel of the package.

    Raises:
        KeyError: the package does not have it.
    """
    entry = json.loads((FOLDER / INDEX).read_text(encoding="utf-8"))["kernels"][name]
    ptx = (FOLDER / f"{name}.ptx").read_bytes()
    return ShippedKernel(name, ptx, entry["threads"], entry["shared_bytes"], tuple(entry["arguments"]))
