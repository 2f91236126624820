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
from condinst_deploy.kernels.host_memory import host_tensor
from condinst_deploy.model.condinst import Instances
from condinst_deploy.runtime.postprocess import require_finite
from condinst_deploy.runtime.torch_streams import own_stream


class DeviceOutputs(NamedTuple):
    """Outputs that the device may still be computing; read them with `taken` or `on_host`.

    No later run writes into these tensors.
    """

    tensors: Instances
    ready: torch.cuda.Event | None  # recorded behind the computation; None: the tensors are on a CPU, and finished

    @classmethod
    def of(cls, tensors: Instances) -> Self:
        """Outputs that the current stream computes."""
        device = tensors.mask_logits.device
        ready = torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None
        return cls(tensors, ready)

    @property
    def device(self) -> torch.device:
        """Return the device of the tensors."""
        return self.tensors.mask_logits.device

    def taken(self) -> Instances:
        """Return the tensors for work on the current stream. The stream waits for them, the caller does not."""
        if self.ready is not None:
            stream = torch.cuda.current_stream(self.tensors.mask_logits.device)
            stream.wait_event(self.ready)
            for tensor in self.tensors:
                # the allocator gives the memory to its own stream again only after this stream has read it
                tensor.record_stream(stream)
        return self.tensors

    def on_host(self, images: int | None = None, precision: str = "float32") -> NetworkOutputs:
        """Wait for the outputs and return arrays. Mask logits have only the slots that the fullest image uses.

        Args:
            images: the number of images in the batch that are not blank; None: all.
            precision: of the network, for the error.

        Raises:
            BackendError: a logit of these images is NaN or infinite, in any slot.
        """
        tensors = self.taken()
        count, finite = on_host(tensors.num_detections, torch.isfinite(tensors.mask_logits[:images]).all())
        require_finite(bool(finite), precision)
        used = tensors.mask_logits[:, : int(count.max(initial=0))]
        if used.dtype == torch.bfloat16:
            used = used.float()  # numpy does not have the type
        return NetworkOutputs(count, *on_host(tensors.boxes, tensors.scores, tensors.labels, used))


def on_host(*tensors: Tensor) -> list[npt.NDArray[Any]]:
    """Return tensors of one device as arrays. Copies from a GPU go through pinned memory; the caller waits once."""
    if not tensors[0].is_cuda:
        return [tensor.numpy() for tensor in tensors]
    copies = [host_tensor(tensor.shape, tensor.dtype, pinned=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    wait_for(torch.cuda.current_stream(tensors[0].device))
    return [copy.numpy() for copy in copies]


def wait_for(stream: torch.cuda.Stream) -> None:
    """Wait for the work of a stream without spinning."""
    event = torch.cuda.Event(blocking=True)
    stream.record_event(event)
    event.synchronize()


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """Use a stream that no other thread uses as the current stream. The block must wait for all its work on the stream.

    Work on the default stream would run behind the next run of the network.
    """
    if device.type != "cuda":
        yield
        return
    idle = _idle_streams(device)
    try:
        stream = idle.pop()
    except IndexError:
        stream = own_stream(device, priority=-1)  # runs before the network's work
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        idle.append(stream)


@cache
def _idle_streams(device: torch.device) -> deque[torch.cuda.Stream]:
    """Keep streams, because PyTorch caches memory for each stream."""
    return deque()
