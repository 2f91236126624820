"""The network's outputs on the device that made them."""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, Self

import numpy.typing as npt
import torch
from torch import Tensor

from condinst_deploy.contract import NetworkOutputs
from condinst_deploy.model.condinst import Instances
from condinst_deploy.runtime.postprocess import require_finite


class DeviceOutputs(NamedTuple):
    """Outputs that the device may still be working on; take them by `taken` or `on_host`.

    They belong to whoever holds them: no later run writes into these tensors.
    """

    tensors: Instances
    ready: torch.cuda.Event | None  # when they are finished; None: they are, on a CPU

    @classmethod
    def of(cls, tensors: Instances) -> Self:
        """Outputs that the current stream makes."""
        device = tensors.mask_logits.device
        ready = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        return cls(tensors, ready)

    def taken(self) -> Instances:
        """The tensors, for work on the current stream; the stream waits until they are finished, the caller not."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.tensors.mask_logits.device)
            stream.wait_event(self.ready)
            for tensor in self.tensors:
                # their memory belongs to the stream that made them; it is given away only after this one is done
                tensor.record_stream(stream)
        return self.tensors

    def on_host(self, pictures: int | None = None, precision: str = "float32") -> NetworkOutputs:
        """Finished host arrays; of the mask logits only as many slots cross as the fullest picture uses.

        Args:
            pictures: how many of the batch there are, the rest being blank; None: all.
            precision: of the network, for the error.

        Raises:
            BackendError: a logit of theirs is NaN or infinite, in whichever slot.
        """
        tensors = self.taken()
        count, finite = on_host(tensors.num_detections, torch.isfinite(tensors.mask_logits[:pictures]).all())
        require_finite(bool(finite), precision)
        used = tensors.mask_logits[:, : int(count.max(initial=0))]
        return NetworkOutputs(count, *on_host(tensors.boxes, tensors.scores, tensors.labels, used))


def on_host(*tensors: Tensor) -> list[npt.NDArray[Any]]:
    """Tensors of one device as arrays; a GPU's are copied through pinned memory, and waited for once."""
    if not tensors[0].is_cuda:
        return [tensor.numpy() for tensor in tensors]
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).record_event().synchronize()
    return [copy.numpy() for copy in copies]


def to_device(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """An array for work on the current stream; to a GPU it goes through pinned memory, and the caller does not wait."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Make a stream that nobody else uses the current one; no work may be left on it when the block ends.

    On the default stream, work on outputs would stand behind the network's next run, and so would who waits for it.
    """
    if device.type != "cuda":
        yield
        return
    idle = _idle_streams(device)
    try:
        stream = idle.pop()
    except IndexError:
        stream = torch.cuda.Stream(device, priority=-1)  # small work goes before the network's
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        idle.append(stream)


@cache
def _idle_streams(device: torch.device) -> deque[torch.cuda.Stream]:
    """Streams are kept, because PyTorch keeps memory apart by the stream that it was used on."""
    return deque()
