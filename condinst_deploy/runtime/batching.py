"""Which images of a stream share a batch. Pure: no threads, no clock, no device."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class BatchingLimits:
    """Limits of batches: their size, and how long an image waits for others of its padded shape.

    Attributes:
        batch_size: images in a full batch.
        section: after this many images all partial batches run, so results do not depend on images of other sections.
        most_waiting: images that wait at a time; above it, the partial batch runs that uses its places worst. None:
            no limit but the section.
        longest_wait: images that may follow an image before its partial batch runs. None: no limit but the section.
        most_bytes: bytes of an image and those that follow it, at which its partial batch runs. None: no limit.
    """

    batch_size: int
    section: int
    most_waiting: int | None = None
    longest_wait: int | None = None
    most_bytes: int | None = None

    @property
    def most_held(self) -> int:
        """Images between the first that waits and the one that ends its wait."""
        return min(self.section, self.longest_wait or self.section)


class _Group(NamedTuple, Generic[Item]):
    """Images of one shape that wait."""

    first: int  # position of the first one
    bytes_before: int  # of all images before it
    items: list[Item]


class BatchingPolicy(Generic[Item]):
    """Puts images of equal padded shape together, in the order in which they come.

    The batches depend on nothing but the limits and the sequence of shapes and sizes.
    """

    def __init__(self, limits: BatchingLimits) -> None:
        self._limits = limits
        self._position = 0
        self._bytes = 0  # of all images so far
        self._waiting = 0
        self._came: Counter[Hashable] = Counter()  # images of each shape in this section
        # in the order of their first images, so the first group has waited longest
        self._groups: dict[Hashable, _Group[Item]] = {}

    def add(self, shape: Hashable, item: Item, size: int = 0) -> list[list[Item]]:
        """Take the next image.

        Args:
            shape: padded shape.
            item: the image.
            size: bytes that it holds.

        Returns:
            The batches that run now, in this order.
        """
        batches = self._overdue()
        group = self._groups.setdefault(shape, _Group(self._position, self._bytes, []))
        group.items.append(item)
        self._came[shape] += 1
        self._waiting += 1
        self._bytes += size
        if len(group.items) == self._limits.batch_size:
            batches.append(self._taken(shape))
        elif self._waiting > (self._limits.most_waiting or self._limits.section):
            batches.append(self._taken(self._worst()))
        return batches + self._too_large() + self._advanced()

    def skip(self) -> list[list[Item]]:
        """Count an image that is in no batch, because it cannot be read."""
        return self._overdue() + self._advanced()

    def flush(self) -> list[list[Item]]:
        """Run all partial batches: no more images come."""
        return [self._taken(shape) for shape in list(self._groups)]

    def _overdue(self) -> list[list[Item]]:
        limit = self._limits.longest_wait or self._limits.section
        old = [shape for shape, group in self._groups.items() if self._position - group.first >= limit]
        return [self._taken(shape) for shape in old]

    def _too_large(self) -> list[list[Item]]:
        limit = self._limits.most_bytes
        if limit is None:
            return []
        large = [shape for shape, group in self._groups.items() if self._bytes - group.bytes_before >= limit]
        return [self._taken(shape) for shape in large]

    def _advanced(self) -> list[list[Item]]:
        self._position += 1
        if self._position % self._limits.section:
            return []
        self._came.clear()
        return self.flush()

    def _worst(self) -> Hashable:
        """The shape whose images use their places worst; of several, the one that has waited longest.

        Batches of k images of a shape that makes up the share r of the images hold (k - 1) / 2 places on average, and
        there are r / k of them for each image. So one image more in each batch saves r / (k (k + 1)) batches for half
        a place.
        """

        def saved(shape: Hashable) -> float:
            waiting = len(self._groups[shape].items)
            return self._came[shape] / (waiting * (waiting + 1))

        return min(self._groups, key=saved)

    def _taken(self, shape: Hashable) -> list[Item]:
        items = self._groups.pop(shape).items
        self._waiting -= len(items)
        return items


def rounded_batch(images: int, largest: int | None) -> int:
    """Return the batch size that a partial batch is filled up to: 1, 2, 4, 8 and so on, but no more than `largest`.

    Few sizes mean few shapes, so that CUDA graphs of the shapes are used again.
    """
    power = 1 << (images - 1).bit_length()
    return power if largest is None else max(images, min(power, largest))
