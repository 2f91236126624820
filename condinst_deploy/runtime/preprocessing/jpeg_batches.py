"""JPEGs that several threads decode together on a GPU.

torchvision's decoder works for one caller at a time: a lock of the whole process is held during a call. A call takes a
list of JPEGs, which it decodes faster than one after the other. So threads that prepare images put their JPEGs down,
and the thread whose turn it is decodes all that are there.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from threading import Condition
from typing import Protocol

import torch
from torch import Tensor

from condinst_deploy.imaging.decode import Jpeg
from condinst_deploy.runtime.device_outputs import wait_for
from condinst_deploy.runtime.torch_streams import own_stream

MOST_IMAGES = 64
"""JPEGs of one call."""

MOST_PIXELS = 1 << 26
"""Of all images of one call, 200 MB on the GPU; a larger image has its own call."""


class DecodingStream(Protocol):
    """A stream for nothing but the memory of decoded images.

    torchvision's decoder writes on its own stream, which does not wait for other streams (pytorch/vision#9606).
    So it must not get memory that other work still reads, also where it stops with an error in the middle of a list,
    and the memory must not be read before the decoder is finished.
    """

    def current(self) -> AbstractContextManager[None]:
        """Make it the current stream: memory that is taken in the block is its own."""

    def wait(self) -> None:
        """Wait for all of its work, and for the decoder's, for which it waits after a call."""

    def lend(self, pixels: Tensor) -> None:
        """Keep an image's memory until the caller's current stream has read it."""


class CudaDecodingStream:
    """`DecodingStream` of a GPU."""

    def __init__(self, gpu: torch.device) -> None:
        self._stream = own_stream(gpu, priority=-1)  # before the network's work

    def current(self) -> AbstractContextManager[None]:
        """See `DecodingStream`."""
        return torch.cuda.stream(self._stream)

    def wait(self) -> None:
        """See `DecodingStream`."""
        wait_for(self._stream)

    def lend(self, pixels: Tensor) -> None:
        """See `DecodingStream`."""
        pixels.record_stream(torch.cuda.current_stream(pixels.device))


@dataclass(eq=False)
class _Request:
    """A JPEG that waits, and its pixels."""

    jpeg: Jpeg
    pixels: Tensor | None = None
    done: bool = False


class JpegBatches:
    """Decodes JPEGs on one GPU. Threads share it."""

    def __init__(self, gpu: torch.device, stream: DecodingStream, most_pixels: int = MOST_PIXELS) -> None:
        self._gpu, self._stream, self._most_pixels = gpu, stream, most_pixels
        self._queue = deque[_Request]()
        self._decoding = False
        self._changed = Condition()

    @property
    def waiting(self) -> int:
        """JPEGs that no call has taken yet."""
        return len(self._queue)

    def decoded(self, jpeg: Jpeg) -> Tensor | None:
        """Decode a JPEG together with those of other threads, for work on the caller's current stream.

        Returns:
            `(3, H, W)` uint8 RGB on the GPU, finished. None: the GPU's decoder does not take this JPEG.
        """
        mine = _Request(jpeg)
        with self._changed:
            self._queue.append(mine)
        while batch := self._turn(mine):
            try:
                self._decode(batch)
            finally:  # images without pixels are left to the CPU
                self._finish(batch)
        if mine.pixels is not None:
            self._stream.lend(mine.pixels)
        return mine.pixels

    def _turn(self, mine: _Request) -> list[_Request]:
        """Wait for the own turn, and return what it shall decode; nothing if another thread has decoded `mine`."""
        with self._changed:
            self._changed.wait_for(lambda: mine.done or not self._decoding)
            if mine.done:
                return []
            self._decoding = True
            batch, pixels = [self._queue.popleft()], 0
            while self._queue and len(batch) < MOST_IMAGES:
                pixels += batch[-1].jpeg.pixels
                if pixels + self._queue[0].jpeg.pixels > self._most_pixels:
                    break
                batch.append(self._queue.popleft())
            return batch

    def _finish(self, batch: Sequence[_Request]) -> None:
        with self._changed:
            self._decoding = False
            for request in batch:
                request.done = True
            self._changed.notify_all()

    def _decode(self, batch: Sequence[_Request]) -> None:
        """Decode in one call. After an error, split the batch in halves: one bad JPEG does not affect the others."""
        try:
            pixels = self._in_order([request.jpeg.content for request in batch])
        except RuntimeError:
            if len(batch) > 1:
                middle = len(batch) // 2
                self._decode(batch[:middle])
                self._decode(batch[middle:])
            return
        for request, own in zip(batch, pixels, strict=True):
            request.pixels = own

    def _in_order(self, contents: Sequence[bytes]) -> list[Tensor]:
        with self._stream.current():
            self._stream.wait()
            pixels = jpegs_on(self._gpu, contents)
            self._stream.wait()
        return pixels


@cache
def jpeg_batches_of(gpu: torch.device) -> JpegBatches:
    """Return the decoder of a GPU, which all models of the process share."""
    return JpegBatches(gpu, CudaDecodingStream(gpu))


def jpegs_on(device: torch.device, contents: Sequence[bytes]) -> list[Tensor]:
    """Decode JPEGs on a device by one call.

    Returns:
        `(3, H, W)` uint8 RGB on the device, one for each.

    Raises:
        RuntimeError: a JPEG is damaged, or the device's decoder does not know its kind.
    """
    from torchvision import io  # here: it takes longer than the rest of the module

    # tensors of `bytes` would not be writable
    encoded = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    pixels: list[Tensor] = io.decode_jpeg(encoded, mode=io.ImageReadMode.RGB, device=device)
    return pixels
