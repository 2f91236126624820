"""Which shapes get their own execution context and CUDA graph. Pure: it decides, others capture."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class HotLimits:
    """Limits of hot shapes: their number, and how fast they may change.

    A capture costs a context, a run and a wait of tens of milliseconds, so that shapes which come rarely must not be
    captured again and again.

    Attributes:
        most: hot shapes at a time.
        warm_up: number of images at the start, during which a shape becomes hot at the second occurrence of its image
            size, in a batch of any number: other batches of a frequent size follow.
        credit: shapes that may become hot soon after the warm-up, when it is known which ones are frequent.
        gap: images between two of them, at least.
        pause: images for each further one.
        hotter: how many times as frequent as the coldest hot shape a shape must be to take its place.
        memory: runs after which all counts are halved, so that shapes of long ago do not count.
    """

    most: int = 96
    warm_up: int = 1000
    credit: int = 10
    gap: int = 150
    pause: int = 2800
    hotter: float = 2.0
    memory: int = 4096


class HotShapes(Generic[Key]):
    """Counts the runs of each shape. One thread at a time may use it."""

    def __init__(self, limits: HotLimits) -> None:
        self._limits = limits
        self._counts: Counter[Key] = Counter()
        self._sizes: Counter[Hashable] = Counter()  # in the warm-up
        self._runs = 0
        self._images = 0
        self._changed = 0  # images when a shape became hot last
        self._late = 0  # shapes that became hot behind the warm-up
        self._hot: dict[Key, None] = {}  # a set that keeps its order

    def __contains__(self, key: Key) -> bool:
        return key in self._hot

    def came(self, key: Key, images: int, size: Hashable) -> bool:
        """Count a run. True if its shape shall become hot now; then call `heat`.

        Args:
            key: the shape of the batch.
            images: in the batch.
            size: of the images, which batches of other numbers of images have, too.
        """
        self._runs += 1
        self._images += images
        if self._runs % self._limits.memory == 0:
            self._counts = Counter({each: count // 2 for each, count in self._counts.items() if count > 1})
        self._counts[key] += 1
        if self._warming_up:
            self._sizes[size] += 1
            return key not in self._hot and self._sizes[size] > 1 and len(self._hot) < self._limits.most
        return key not in self._hot and self._counts[key] > 1 and self._may_change() and self._is_next(key)

    def heat(self, key: Key) -> Key | None:
        """Make a shape hot.

        Returns:
            The shape that is no longer hot; None: there was room.
        """
        coldest = self._coldest() if len(self._hot) >= self._limits.most else None
        if coldest is not None:
            del self._hot[coldest]
        self._hot[key] = None
        self._changed = self._images
        self._late += not self._warming_up
        return coldest

    @property
    def _warming_up(self) -> bool:
        return self._images <= self._limits.warm_up

    def _may_change(self) -> bool:
        limits = self._limits
        allowed = limits.credit + (self._images - limits.warm_up) / limits.pause
        return self._images - self._changed >= limits.gap and self._late + 1 <= allowed

    def _is_next(self, key: Key) -> bool:
        """True if a shape is about the most frequent of those that are not hot, and there is room for it."""
        others = max((count for each, count in self._counts.items() if each not in self._hot), default=0)
        if self._counts[key] < 0.75 * others:
            return False
        if len(self._hot) < self._limits.most:
            return True
        return self._counts[key] >= self._limits.hotter * max(1, self._counts[self._coldest()])

    def _coldest(self) -> Key:
        return min(self._hot, key=lambda key: self._counts[key])
