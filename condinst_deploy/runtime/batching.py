"""Which images of a stream share a batch. Pure: no threads, no clock, no device."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class BatchingLimits:
    """Limits of batches: their size, and how long an image waits for others of its padded shape.

    Attributes:
        batch_size: images in a full batch.
        section: after this many images all partial batches run, so results do not depend on images of other sections.
        most_waiting: images that wait at a time; above it, the largest partial batch runs. None: no limit but the
            section.
        longest_wait: images that may follow an image before its partial batch runs. None: no limit but the section.
    """

    batch_size: int
    section: int
    most_waiting: int | None = None
    longest_wait: int | None = None

    @property
    def most_held(self) -> int:
        """Images between the first that waits and the one that ends its wait."""
        return min(self.section, self.longest_wait or self.section)


class BatchingPolicy(Generic[Item]):
    """Puts images of equal padded shape together, in the order in which they come.

    The batches depend on nothing but the limits and the sequence of shapes.
    """

    def __init__(self, limits: BatchingLimits) -> None:
        self._limits = limits
        self._position = 0
        self._waiting = 0
        # in the order of their first images, so the first group has waited longest
        self._groups: dict[Hashable, tuple[int, list[Item]]] = {}

    def add(self, shape: Hashable, item: Item) -> list[list[Item]]:
        """Take the next image.

        Returns:
            The batches that run now, in this order.
        """
        batches = self._overdue()
        _, group = self._groups.setdefault(shape, (self._position, []))
        group.append(item)
        self._waiting += 1
        if len(group) == self._limits.batch_size:
            batches.append(self._taken(shape))
        elif self._waiting > (self._limits.most_waiting or self._limits.section):
            batches.append(self._taken(self._largest()))
        return batches + self._advanced()

    def skip(self) -> list[list[Item]]:
        """Count an image that is in no batch, because it cannot be read."""
        return self._overdue() + self._advanced()

    def flush(self) -> list[list[Item]]:
        """Run all partial batches: no more images come."""
        return [self._taken(shape) for shape in list(self._groups)]

    def _overdue(self) -> list[list[Item]]:
        limit = self._limits.longest_wait or self._limits.section
        old = [shape for shape, (first, _) in self._groups.items() if self._position - first >= limit]
        return [self._taken(shape) for shape in old]

    def _advanced(self) -> list[list[Item]]:
        self._position += 1
        return self.flush() if self._position % self._limits.section == 0 else []

    def _largest(self) -> Hashable:
        """The shape of most images; of several, the one that has waited longest."""
        return max(self._groups, key=lambda shape: len(self._groups[shape][1]))

    def _taken(self, shape: Hashable) -> list[Item]:
        _, group = self._groups.pop(shape)
        self._waiting -= len(group)
        return group


def rounded_batch(images: int, largest: int | None) -> int:
    """Return the batch size that a partial batch is filled up to: 1, 2, 4, 8 and so on, but no more than `largest`.

    Few sizes mean few shapes, so that CUDA graphs of the shapes are used again.
    """
    power = 1 << (images - 1).bit_length()
    return power if largest is None else max(images, min(power, largest))
