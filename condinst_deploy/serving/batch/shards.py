"""Shards: consecutive images of the input, which one worker processes and writes as one part."""

from collections.abc import Iterator
from dataclasses import dataclass

from condinst_deploy.errors import ConfigError
from condinst_deploy.shown_text import shown_value

LARGEST_SHARD = 100_000
"""Images; the rows of a shard are held in memory until its part is written."""


@dataclass(frozen=True)
class PathSpan:
    """Images that are files."""

    paths: tuple[str, ...]  # paths or URLs

    def __len__(self) -> int:
        return len(self.paths)

    def split(self, at: int) -> tuple["PathSpan", "PathSpan"]:
        """Return the first `at` images, and the others."""
        return PathSpan(self.paths[:at]), PathSpan(self.paths[at:])


@dataclass(frozen=True)
class RowSpan:
    """Images that are rows of a Parquet file. Only workers read them."""

    file: str  # path or URL
    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    def split(self, at: int) -> tuple["RowSpan", "RowSpan"]:
        """Return the first `at` images, and the others."""
        return RowSpan(self.file, self.first, at), RowSpan(self.file, self.first + at, self.count - at)


Span = PathSpan | RowSpan


@dataclass(frozen=True)
class Shard:
    """Consecutive images of the input."""

    index: int
    first: int  # position of the first image in the input
    spans: tuple[Span, ...]

    def __len__(self) -> int:
        return sum(len(span) for span in self.spans)


def check_shard_size(size: int) -> None:
    """Check the number of images of a shard.

    Raises:
        ConfigError: it is out of range.
    """
    if not 1 <= size <= LARGEST_SHARD:
        raise ConfigError(f"the shard size is {shown_value(size)}; expected 1 to {LARGEST_SHARD} images")


def shard_count(images: int, size: int) -> int:
    """Return the number of shards of so many images."""
    return -(-images // size)


def shards_of(spans: Iterator[Span], size: int) -> Iterator[Shard]:
    """Cut spans into shards of `size` images; the last one may be smaller. One shard is held at a time."""
    index, held, missing = 0, list[Span](), size
    for span in spans:
        rest: Span = span
        while len(rest) >= missing:
            head, rest = rest.split(missing)
            yield Shard(index, index * size, (*held, head))
            index, held, missing = index + 1, [], size
        if len(rest):
            held.append(rest)
            missing -= len(rest)
    if held:
        yield Shard(index, index * size, tuple(held))
