"""The checkpoints in the folder of a run: the last ones, and the best model."""

import zipfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from condinst_deploy.errors import CheckpointError, ConfigError, OutputError
from condinst_deploy.model.safe_load import load_checkpoint_file
from condinst_deploy.support.folder_lock import locked_folder

CHECKPOINT, BEST, DAMAGED = "last.pth", "best.pth", "damaged.pth"

EARLIER_BEST = "best-earlier.pth"
"""A best model whose score is not known any more, because the history was lost."""

WAITING = "next.pth"
"""A complete checkpoint whose name is not `last.pth` yet; it is left only where a process is killed in that moment."""

MOST_KEPT = 1_000


class Found(NamedTuple):
    """A checkpoint that can be used."""

    path: Path
    note: str  # why it is not the last one; "" if it is
    content: dict[str, Any]  # of the file
    damaged: tuple[Path, ...] = ()  # newer ones, which cannot be read


class CheckpointStore:
    """`last.pth` is the newest checkpoint; `last-1.pth`, `last-2.pth` and so on are those before it.

    A new checkpoint is complete on the disk before it takes the name of the last one.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def add(self, save: Callable[[Path], None]) -> None:
        """Write a new last checkpoint; the others move back by one.

        Args:
            save: writes a file, atomically.

        Raises:
            OutputError: it cannot be written; all that were there stay.
        """
        waiting = self._folder / WAITING
        save(waiting)
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._path(number - 1).replace(self._path(number))
        waiting.replace(self._path(0))

    def add_alone(self, save: Callable[[Path], None], iteration: int) -> None:
        """Write a checkpoint unless another process writes into the folder, or has written one of this iteration.

        For processes that have lost the one whose task it is.
        """
        with suppress(ConfigError), locked_folder(self._folder):
            last = self._path(0)
            if not last.exists() or _iteration_of(last) < iteration:
                self.add(save)

    def set_aside(self, damaged: Iterable[Path]) -> None:
        """Rename damaged checkpoints to `damaged.pth`, so that they do not push out those that can be read.

        Raises:
            OutputError: one cannot be renamed.
        """
        for path in damaged:
            try:
                path.replace(self._folder / DAMAGED)
            except OSError as e:
                raise OutputError(f"{path} is damaged and cannot be renamed ({e.strerror or e})") from e

    def keep_best(self) -> Path | None:
        """Rename a best model, so that one of another score does not replace it; one that was kept before stays.

        Returns:
            Its new path; None: there is none.

        Raises:
            OutputError: it cannot be renamed.
        """
        path, earlier = self._folder / BEST, self._folder / EARLIER_BEST
        if not path.is_file():
            return None
        names = chain([earlier], (earlier.with_stem(f"{earlier.stem}-{number}") for number in count(2)))
        kept = next(name for name in names if not name.exists())
        try:
            return path.replace(kept)
        except OSError as e:
            raise OutputError(f"{path} cannot be renamed to {kept.name} ({e.strerror or e})") from e

    def newest(self) -> Found:
        """The newest checkpoint that can be read.

        Raises:
            CheckpointError: there is none.
        """
        named = [self._folder / WAITING, *(self._path(number) for number in range(MOST_KEPT))]
        paths = [path for path in named if path.exists()]
        problems, damaged = [], []
        for path in [*paths, *([] if paths else [self._path(0)])]:
            try:
                content = read_whole(path)
            except CheckpointError as e:
                problems.append(str(e))
                damaged.append(path)
                continue
            note = f"{problems[0]}; going on from {path.name}, the one before it" if problems else ""
            return Found(path, note, content, tuple(damaged))
        raise CheckpointError("; ".join(problems))

    def _path(self, number: int) -> Path:
        return self._folder / (CHECKPOINT if number == 0 else f"{Path(CHECKPOINT).stem}-{number}.pth")


def read_whole(path: Path) -> dict[str, Any]:
    """Read a checkpoint and compare its checksums, which PyTorch writes and does not compare.

    Raises:
        CheckpointError: it is damaged, or no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        damaged = None  # the reader says what is wrong
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged ({damaged} has a wrong checksum)")
    return load_checkpoint_file(path)


def _iteration_of(path: Path) -> int:
    try:
        training = load_checkpoint_file(path).get("training")
    except CheckpointError:
        return -1
    iteration = training.get("iteration") if isinstance(training, dict) else None
    return iteration if isinstance(iteration, int) else -1
