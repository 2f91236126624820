"""How much memory the decoded images of a stream may hold."""

from threading import Condition

from condinst_deploy.contract import ImageGeometry

MOST_HELD = 2 << 30
"""Bytes of decoded images between the iterable and the consumer: 290 images of 1080p, 7 of 100 megapixels."""


def decoded_bytes(geometry: ImageGeometry) -> int:
    """Bytes of the decoded original, RGB uint8."""
    height, width = geometry.original
    return 3 * height * width


class HeldImages:
    """Limits the bytes of decoded images. Threads share it, and decode images in order while there is room.

    The size of an image is unknown until it is decoded. An image that is being decoded counts as the largest image
    that is held, so the limit can be exceeded by the images that are decoded at the same time.

    A full limit does not stop the stream: the images from the oldest one on have reached the limit, and
    `BatchingPolicy` runs the batch of the oldest image at the same limit.
    """

    def __init__(self, most_bytes: int | None) -> None:
        """`most_bytes` None: no limit."""
        self._most = most_bytes
        self._next, self._decoding = 0, 0
        self._sizes: dict[int, int] = {}  # position of an image -> its bytes
        self._held = 0
        self._closed = False
        self._changed = Condition()

    def begin(self, position: int) -> None:
        """Wait until the image of this position may be decoded. Every position comes once."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (position == self._next and self._has_room()))
            self._next += 1
            self._decoding += 1
            self._changed.notify_all()

    def decoded(self, position: int, size: int) -> None:
        """Note that an image is decoded, and holds so many bytes; 0 if it cannot be read."""
        with self._changed:
            self._decoding -= 1
            self._sizes[position] = size
            self._held += size
            self._changed.notify_all()

    def given(self, position: int) -> None:
        """Note that an image's result goes to the consumer."""
        with self._changed:
            self._held -= self._sizes.pop(position, 0)
            self._changed.notify_all()

    def close(self) -> None:
        """Wake every waiting thread, because the stream ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        if self._most is None or not (self._held or self._decoding):
            return True
        return self._held + self._decoding * max(self._sizes.values(), default=0) < self._most
