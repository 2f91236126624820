"""Memory of the host for copies to and from a GPU.

It is pinned, so that a copy makes nobody wait. Where the system gives no more pinned memory, ordinary memory takes its
place.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def host_tensor(shape: int | Sequence[int], dtype: torch.dtype = torch.uint8, *, pinned: bool) -> Tensor:
    """Return a tensor on the host without values; pinned if that is asked for and possible."""
    if pinned:
        try:
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        except RuntimeError as e:  # a GPU that failed for good says so at the next call
            reason = str(e).partition("\n")[0]
            warnings.warn(
                f"the system gives this process no more pinned memory ({reason}): copies to and from the GPU go"
                " through ordinary memory, which is slower. Give the process more memory, or use a smaller batch_size",
                stacklevel=2,
            )
    return torch.empty(shape, dtype=dtype)


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return an array on a device, for work on the current stream; the caller does not wait for the copy."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor
    return copied_to(host_tensor(tensor.shape, tensor.dtype, pinned=True).copy_(tensor), device)


def copied_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host; the caller waits only if it is not pinned."""
    return tensor.to(device, non_blocking=tensor.is_pinned())
