"""Copies of a file under other names, found without reading every file: by size, then first block, then content."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from condinst_deploy.imaging.image_sizes import THREADS, Header
from condinst_deploy.support.digests import sha256_of, sha256_of_bytes

FIRST_BLOCK = 1 << 16
"""Bytes that tell most files of equal size apart, uncompressed images too."""


def equal_files(paths: Sequence[Path], headers: Sequence[Header]) -> list[list[int]]:
    """Positions of different files with the same bytes, a list for each content.

    Args:
        paths: of the files; a file under several names or links counts once.
        headers: of the same files; files that are no readable images are left out: nobody trains on them.
    """
    files = {
        header.file: position
        for position, header in reversed(list(enumerate(headers)))
        if header.file is not None and not header.problem
    }
    with ThreadPoolExecutor(THREADS) as pool:
        same_size = _alike([sorted(files.values())], lambda some: (headers[i].bytes for i in some))
        same_start = _alike(same_size, lambda some: pool.map(_of_first_block, [paths[i] for i in some]))
        return _alike(same_start, lambda some: pool.map(_of_all, [paths[i] for i in some]))


def contents_of(paths: Sequence[Path], headers: Sequence[Header]) -> list[int]:
    """For each file the position of the first one with the same bytes: the file itself, or a copy.

    Args: as `equal_files`.
    """
    first: dict[Hashable, int] = {}
    for position, header in enumerate(headers):
        first.setdefault(position if header.file is None else header.file, position)
    copies = {position: same[0] for same in equal_files(paths, headers) for position in same}
    own = [position if header.file is None else first[header.file] for position, header in enumerate(headers)]
    return [copies.get(position, position) for position in own]


def _alike(groups: Iterable[list[int]], keys_of: Callable[[list[int]], Iterable[Hashable]]) -> list[list[int]]:
    """Divide groups by a key, and keep what shares it with others. None as a key shares nothing."""
    found = []
    for group in groups:
        by_key: defaultdict[Hashable, list[int]] = defaultdict(list)
        for position, key in zip(group, keys_of(group), strict=True):
            if key is not None:
                by_key[key].append(position)
        found += [same for same in by_key.values() if len(same) > 1]
    return found


def _of_first_block(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            return sha256_of_bytes(stream.read(FIRST_BLOCK))
    except OSError:  # the file is gone since its header was read
        return None


def _of_all(path: Path) -> str | None:
    try:
        return sha256_of(path)
    except OSError:
        return None
