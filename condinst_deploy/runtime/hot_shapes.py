"""Which shapes get an execution context and a CUDA graph of their own. Pure: it decides, others capture."""

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
        warm_up: images in whose runs each shape becomes hot when it comes for the second time.
        pause: images between two shapes that become hot later.
        hotter: how many times as frequent as the coldest hot shape a shape must be to take its place.
        memory: runs after which all counts are halved, so that shapes of long ago do not count.
    """

    most: int = 72
    warm_up: int = 1080
    pause: int = 1200
    hotter: float = 2.0
    memory: int = 4096


class HotShapes(Generic[Key]):
    """Counts the runs of each shape. One thread at a time may use it."""

    def __init__(self, limits: HotLimits) -> None:
        self._limits = limits
        self._counts: Counter[Key] = Counter()
        self._runs = 0
        self._images = 0
        self._changed = 0  # images when a shape became hot last
        self._hot: dict[Key, None] = {}  # a set that keeps its order

    def __contains__(self, key: Key) -> bool:
        return key in self._hot

    def came(self, key: Key, images: int) -> bool:
        """Count a run of this many images. True if the shape shall become hot now; then call `heat`."""
        self._runs += 1
        self._images += images
        if self._runs % self._limits.memory == 0:
            self._counts = Counter({each: count // 2 for each, count in self._counts.items() if count > 1})
        self._counts[key] += 1
        if key in self._hot or self._counts[key] < 2:
            return False
        if self._images <= self._limits.warm_up:
            return len(self._hot) < self._limits.most
        return self._images - max(self._changed, self._limits.warm_up) >= self._limits.pause and self._is_next(key)

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
        return coldest

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
