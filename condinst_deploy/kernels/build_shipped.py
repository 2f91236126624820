"""Compile the kernels that the package contains: `python -m condinst_deploy.kernels.build_shipped [FOLDER]`.

The PTX has no line information, so that it does not depend on where the sources lie.
"""

import os
import re
import sys
from pathlib import Path

from condinst_deploy.kernels.shipped import FOLDER, INDEX, LOWEST_CAPABILITY
from condinst_deploy.support.atomic_write import atomic_path
from condinst_deploy.support.json_text import json_text
from condinst_deploy.support.versions import installed_versions


def build(folder: Path) -> None:
    """Write PTX and index into a folder.

    Raises:
        EngineError: the compiler gave another parameter list than expected.
    """
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # read when Triton is imported
    from condinst_deploy.kernels.aot import compiled, shipped_sources
    from condinst_deploy.kernels.ptx import PTX_VERSION, without_hidden_parameters

    entries = {}
    for name, source in shipped_sources().items():
        kernel = compiled(source, LOWEST_CAPABILITY, PTX_VERSION)
        types = list(source.arguments.values())
        ptx = without_hidden_parameters(kernel.ptx, types)
        # one function has a kernel for each of its types and constants
        _write(folder / f"{name}.ptx", re.sub(rf"\b{kernel.name}(?=\b|_param_)", name, ptx))
        arguments = ["pointer" if kind.startswith("*") else kind for kind in types]
        entries[name] = {"threads": kernel.threads, "shared_bytes": kernel.shared_bytes, "arguments": arguments}
    index = {"triton": installed_versions(("triton",))["triton"], "kernels": entries}
    _write(folder / INDEX, json_text(index, "the index of the kernels", indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
