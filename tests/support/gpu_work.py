"""Work that keeps a GPU busy, so that a missing synchronisation shows."""

import torch


def occupy(cycles: int) -> None:
    """Keep the current stream busy for this many cycles of the GPU's clock; 2e9 are about a second."""
    torch.cuda._sleep(cycles)  # noqa: SLF001  (PyTorch's own tests use it, too)
