"""Training batches, decided by seed and position alone: a resumed run sees what an uninterrupted one sees.

The images of an iteration are decided first and then divided among the processes, so that any number of processes
sees the same images.
"""

import errno
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from signal import SIGCHLD
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from condinst_deploy.data.coco import CocoDataset
from condinst_deploy.data.transforms import Source, TrainingBatch, TrainingExample, TrainingTransform, collate
from condinst_deploy.errors import BackendError, ConfigError, DataError
from condinst_deploy.shown_text import first_line
from condinst_deploy.support.signals import ignore_signals, unchanged_handler
from condinst_deploy.training.order import Grouping, Key, batch_keys
from condinst_deploy.training.packed_batch import PackedBatch, SharingError, packed
from condinst_deploy.training.ranks import ALONE, Ranks
from condinst_deploy.training.recipe import Recipe

Prepared = tuple[TrainingExample, Source]


class PreparationError(BackendError):
    """The processes that prepare images cannot go on: one was killed, or shared memory or descriptors are used up."""


PROBLEMS = (DataError, PreparationError)
"""What a process that prepares images returns instead of a batch."""


class Examples(Dataset[Prepared | DataError]):
    """The data set's images, transformed at random by seed and position."""

    def __init__(self, data: CocoDataset, recipe: Recipe) -> None:
        self._data, self._seed = data, recipe.seed
        schedule, preprocessing = recipe.schedule, recipe.model.preprocessing
        self._late_from = (schedule.iterations - recipe.late_iterations) * schedule.batch_size
        boxes_only = recipe.losses.kind == "boxinst"
        self._early = TrainingTransform(preprocessing, recipe.short_sides, recipe.flip, recipe.augment, boxes_only)
        self._late = replace(self._early, short_sides=recipe.late_short_sides or recipe.short_sides)

    def __getitem__(self, key: Key) -> Prepared | DataError:
        """The example at a position, or what is wrong with it: the loader would tell an error with its traceback."""
        position, index = key
        transform = self._early if position < self._late_from else self._late
        try:
            sample = self._data[index]
            example = transform(sample, np.random.default_rng((self._seed, position)))
        except DataError as e:
            return e
        return example, Source(position, sample.image_id, self._data.paths[index].name)


def parts_of(keys: Iterable[list[Key]], recipe: Recipe, ranks: Ranks) -> Iterator[list[Key]]:
    """This process's share of each batch, in the parts that run through the network one after the other.

    Raises:
        ConfigError: the batch cannot be divided evenly.
    """
    batch, parts = recipe.schedule.batch_size, ranks.size * recipe.execution.accumulate
    if batch % parts:
        raise ConfigError(
            f"schedule.batch_size is {batch}; expected a multiple of {ranks.size} processes times"
            f" execution.accumulate = {recipe.execution.accumulate}, so that all parts are equal"
        )
    own = batch // ranks.size
    for whole in keys:
        share = iter(whole[ranks.rank * own : (ranks.rank + 1) * own])
        while part := list(islice(share, batch // parts)):
            yield part


def batches(
    data: CocoDataset, recipe: Recipe, first: int, ranks: Ranks = ALONE
) -> Generator[TrainingBatch, None, None]:
    """This process's batches from iteration `first` on; `execution.accumulate` of them are one iteration's.

    Close the generator when no more batches are wanted. Its processes ignore signals: if they still run when Python
    exits, Python waits for them forever.

    Raises:
        ConfigError: the batch cannot be divided evenly.
        DataError: an image cannot be decoded or has another size than annotated.
        PreparationError: shared memory or descriptors are used up, or a process that prepares images was killed.
    """
    schedule, settings = recipe.schedule, recipe.data
    grouping = Grouping(settings.group, data.landscape) if settings.group > 1 else None
    keys = batch_keys(len(data), schedule.batch_size, recipe.seed, first, schedule.iterations, grouping)
    loader = DataLoader(
        Examples(data, recipe),
        batch_sampler=parts_of(keys, recipe, ranks),
        num_workers=settings.workers,
        prefetch_factor=settings.prefetch if settings.workers else None,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_the_trainer,
        collate_fn=partial(_collated, pad_divisor=recipe.model.preprocessing.pad_divisor),
    )
    for batch in _received(loader):
        if isinstance(batch, PROBLEMS):
            raise batch
        yield batch.unpacked()


def _received(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield what the processes prepared.

    Raises:
        PreparationError: one of them was killed.
        Exception: what one of them raised; PyTorch puts its traceback there into the message.
    """
    # PyTorch's handler raises an error in whatever line the trainer is when a process is killed, also while it writes a
    # checkpoint; the loader notices the same within seconds when it waits for a batch
    with unchanged_handler(SIGCHLD):
        processes = iter(loader)
    failure = None
    try:
        yield from processes
    except Exception as e:
        if not loader.num_workers:
            raise
        failure = _failure_of(e)
    finally:
        del processes
    if failure is not None:  # raised here: the frames of PyTorch's error would keep the processes alive
        raise failure


def _failure_of(error: Exception) -> Exception:
    """An error of the loader without PyTorch's frames, which hold the processes."""
    error = error.with_traceback(None)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return _no_descriptor(error)
    text = str(error)
    if isinstance(error, RuntimeError) and (text.startswith("Too many open files") or text.endswith("of ancdata")):
        return _no_descriptor(error)  # the second is what Python says where the system dropped a descriptor
    of_a_process = isinstance(error, RuntimeError) and text.startswith("DataLoader worker")
    if not of_a_process and not isinstance(error, OSError | EOFError):  # of the connection to a process
        return error
    return PreparationError(
        f"a process that prepares images ended ({first_line(error)}); the system ends processes when memory runs out:"
        " lower data.workers in the recipe, then go on with --resume"
    )


def _no_descriptor(error: Exception) -> PreparationError:
    return PreparationError(
        f"prepared images cannot be handed over, because no file descriptor is left ({first_line(error)}); raise the"
        " limit (ulimit -n), or lower data.workers in the recipe"
    )


def _leave_signals_to_the_trainer(_number: int) -> None:
    """Ignore signals in a process that prepares images: Ctrl-C and a scheduler's SIGTERM reach the whole group.

    A worker that died of one would stop the trainer with an error before it has saved its checkpoint.
    """
    ignore_signals()


def _collated(prepared: list[Prepared | DataError], pad_divisor: int) -> PackedBatch | DataError | PreparationError:
    """A batch, or the first error among its examples, or why it cannot go to the trainer.

    The loader would share a batch in a thread: an error there is lost, and the trainer would wait for ever.
    """
    errors = [each for each in prepared if isinstance(each, DataError)]
    if errors:
        return errors[0]
    good = [each for each in prepared if not isinstance(each, DataError)]
    batch = collate([example for example, _ in good], pad_divisor=pad_divisor)
    sources = [source for _, source in good]
    try:
        return packed(batch, sources, shared=get_worker_info() is not None)
    except OSError as e:
        return _no_descriptor(e)
    except SharingError as e:
        return PreparationError(
            f"prepared images do not fit into shared memory ({e}); enlarge /dev/shm, in Docker with"
            " --shm-size 2g, or set data.workers = 0 in the recipe"
        )
