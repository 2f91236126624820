"""The kernels run on CPU tensors by Triton's interpreter, in a separate process.

Whether functions are interpreted or compiled is decided when Triton is imported, and the tests need both.
"""

import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]


def interpreted(calls: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
    """Results of calls: each is a name of `_run`'s, or `module:function`, and its arguments."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "calls.pt", Path(folder) / "results.pt"
        torch.save(calls, asked)
        paths = [str(ROOT), str(ROOT / "export"), str(ROOT / "engines"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "tests.support.interpreter", str(asked), str(answered)]
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        results: list[Any] = torch.load(answered)
    return results


def _multiply_bfloat16_as_float32() -> None:
    """The interpreter keeps bfloat16 as bits in whole numbers, and its matrix product takes them for values."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    plain = interpreter.InterpreterBuilder.create_dot

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return plain(self, widened(a), widened(b), *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot


def _run(calls: list[tuple[str, tuple[Any, ...]]]) -> list[Any]:
    from condinst_deploy.kernels import extents, runs
    from condinst_deploy.kernels.mask_head import LAUNCHES, fused_mask_head
    from condinst_deploy.kernels.select import fused_select_instances, select_instances_kernel
    from tests.support.device_results import predicted, results_on_device

    # none was compiled: what runs is the kernels' own text
    kernels = [select_instances_kernel, *(launch.kernel for launch in LAUNCHES.values())]
    kernels += [extents.mask_extents_kernel, runs.probabilities_kernel, runs.changes_kernel, runs.offsets_kernel]
    assert all(type(kernel).__name__ == "InterpretedFunction" for kernel in kernels)
    _multiply_bfloat16_as_float32()
    forms: dict[str, Any] = {
        "mask_head": fused_mask_head,
        "select": fused_select_instances,
        "extents": extents.mask_extents,
        "results": results_on_device,
        "predicted": predicted,
    }
    with torch.no_grad():
        return [(forms.get(name) or _function(name))(*arguments) for name, arguments in calls]


def _function(name: str) -> Any:
    """The function of a module, named as `module:function`."""
    module, function = name.split(":")
    return getattr(import_module(module), function)


if __name__ == "__main__":
    torch.save(_run(torch.load(sys.argv[1])), sys.argv[2])
