"""Which form of the two special operations runs on a device."""

import os
from importlib.util import find_spec
from shutil import which

import torch

from condinst_deploy.model.operations import REFERENCE, Operations


def kernels_run_on(device: torch.device) -> bool:
    """Return whether the kernels run on a device: on CUDA if Triton is installed, as with PyTorch's CUDA builds.

    Triton compiles its launchers in C at the first launch, so a C compiler must be there, too. With
    `TRITON_INTERPRET=1` Triton runs the kernels on a CPU, slowly; that is for tests.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return (interpreted or (device.type == "cuda" and compiler_present())) and find_spec("triton") is not None


def compiler_present() -> bool:
    """True if Triton finds a C compiler."""
    return "CC" in os.environ or any(which(name) is not None for name in ("gcc", "clang"))


def missing_for_kernels(device: torch.device) -> str:
    """Return what the kernels lack on a GPU, for a model's note; "" if nothing, and on a CPU."""
    if device.type != "cuda" or kernels_run_on(device):
        return ""
    lacks = "Triton" if find_spec("triton") is None else "a C compiler (gcc, clang or CC)"
    return f"without the fused kernels, which need {lacks}"


def operations_for(device: torch.device) -> Operations:
    """The kernels where they run, else the references."""
    return fused_operations() if kernels_run_on(device) else REFERENCE


def fused_operations() -> Operations:
    """The kernels; tensors of a kind that they do not cover go to the references."""
    # imported here: importing Triton takes a second, and runs on a CPU do not need it
    from condinst_deploy.kernels.mask_head import fused_mask_head
    from condinst_deploy.kernels.select import fused_select_instances

    return Operations(fused_select_instances, fused_mask_head)
