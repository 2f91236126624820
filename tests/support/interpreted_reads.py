"""What a kernel reads, counted by Triton's interpreter."""

from importlib import import_module
from typing import Any

import torch


def elements_read(function: str, arguments: tuple[Any, ...]) -> list[int]:
    """Elements of each contiguous tensor among the arguments that the kernels of a call read, repeated reads included.

    Runs in a process whose kernels are interpreted (`tests.support.interpreter`).

    Args:
        function: `module:function`, which launches kernels.
        arguments: of the function, tensors on the CPU.
    """
    from triton.runtime.interpreter import InterpreterBuilder

    tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
    read = [0] * len(tensors)
    plain = InterpreterBuilder.create_masked_load

    def counted(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        addresses = pointers.data[mask.data]
        for i, tensor in enumerate(tensors):
            first = tensor.data_ptr()
            read[i] += int(((addresses >= first) & (addresses < first + tensor.nbytes)).sum())
        return plain(self, pointers, mask, *rest)

    module, name = function.split(":")
    InterpreterBuilder.create_masked_load = counted
    try:
        getattr(import_module(module), name)(*arguments)
    finally:
        InterpreterBuilder.create_masked_load = plain
    return read
