"""Which form of the two special operations runs on a device."""

from importlib.util import find_spec

import torch

from condinst_deploy.model.operations import REFERENCE, Operations


def operations_for(device: torch.device) -> Operations:
    """The kernels on CUDA where Triton is installed (PyTorch's CUDA builds bring it), else the references."""
    if device.type != "cuda" or find_spec("triton") is None:
        return REFERENCE
    return fused_operations()


def fused_operations() -> Operations:
    """The kernels; tensors of a kind that they do not cover go to the references."""
    # imported here: Triton takes a second, and a server of engines has no use for it
    from condinst_deploy.kernels.mask_head import fused_mask_head
    from condinst_deploy.kernels.select import fused_select_instances

    return Operations(fused_select_instances, fused_mask_head)
