"""A training batch in one piece of memory, as it comes from the processes that prepare images.

PyTorch opens a file descriptor for each tensor that another process gets. A batch of 16 images has 50 tensors; the
batches that ten processes hold ready have 1,000, and a process may usually open 1,024 files.
"""

import errno
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from condinst_deploy.data.transforms import Source, TrainingBatch
from condinst_deploy.model.targets import ImageTargets
from condinst_deploy.shown_text import first_line

ALIGNMENT = 16
"""Bytes; every tensor begins at a multiple of it."""

DESCRIPTORS = 4
"""That have to be free when a batch is handed over."""


class SharingError(Exception):
    """The system gives no shared memory for a batch."""


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """The tensors of a batch one after the other."""

    content: Tensor  # (bytes) uint8
    layout: tuple[tuple[torch.dtype, tuple[int, ...]], ...]  # types and shapes, in the order of `_tensors`
    sources: tuple[Source, ...]  # B

    def pin_memory(self) -> "PackedBatch":
        """Return a copy in pinned memory, from which a GPU copies asynchronously; `DataLoader` calls this."""
        return replace(self, content=self.content.pin_memory())

    def unpacked(self) -> TrainingBatch:
        """The batch; its tensors lie in `content`."""
        found, begin = [], 0
        for dtype, shape in self.layout:
            end = begin + _bytes(dtype, shape)
            found.append(self.content[begin:end].view(dtype).view(shape))
            begin = _aligned(end)
        images, image_sizes, *rest = found
        targets = tuple(ImageTargets(*rest[i : i + 3]) for i in range(0, len(rest), 3))
        return TrainingBatch(images, image_sizes, targets, self.sources)


def packed(batch: TrainingBatch, sources: Sequence[Source], *, shared: bool) -> PackedBatch:
    """Copy a batch into one piece of memory.

    Args:
        batch: on the CPU.
        sources: of its images.
        shared: whether another process gets it.

    Raises:
        SharingError: shared memory is full.
        OSError: the process has no file descriptor left for it.
    """
    tensors = _tensors(batch)
    layout = tuple((tensor.dtype, tuple(tensor.shape)) for tensor in tensors)
    content = torch.empty(sum(_aligned(_bytes(*each)) for each in layout), dtype=torch.uint8)
    if shared:
        _share(content)
        _check_descriptors()
    whole = PackedBatch(content, layout, tuple(sources))
    for place, tensor in zip(_tensors(whole.unpacked()), tensors, strict=True):
        place.copy_(tensor)
    return whole


def _tensors(batch: TrainingBatch) -> list[Tensor]:
    targets = [x for target in batch.targets for x in (target.boxes, target.labels, target.masks)]
    return [batch.images, batch.image_sizes, *targets]


def _bytes(dtype: torch.dtype, shape: Sequence[int]) -> int:
    return dtype.itemsize * math.prod(shape)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _share(content: Tensor) -> None:
    """Move a tensor to shared memory.

    Raises:
        SharingError: shared memory is full, or cannot be used.
        OSError: no descriptor is left; PyTorch raises RuntimeError there, too, with the number of the system's error.
    """
    try:
        content.share_memory_()
    except RuntimeError as e:
        for number in (errno.EMFILE, errno.ENFILE):
            if str(e).rstrip().endswith(f"({number})"):
                raise OSError(number, os.strerror(number)) from e
        raise SharingError(first_line(e)) from e


def _check_descriptors() -> None:
    """The loader sends a batch in a thread: an error there is lost, and the trainer would wait for ever.

    Raises:
        OSError: hardly one is left.
    """
    taken: list[int] = []
    try:
        for _ in range(DESCRIPTORS):
            taken.append(os.open(os.devnull, os.O_RDONLY))
    finally:
        for number in taken:
            os.close(number)
